/* there - tiers whose window and long-term tier are on a device.
 *
 *   device   local tier: first tokens, window, and what waits to be closed      longterm: a copy of the closed segments
 *   host     fetches a segment's keys and values, groups them, keeps index and rows (longterm.h), and copies them there
 *
 * So a decoded token asks nothing of the host; one in a segment's tokens waits for it. Where the device has no room for all rows
 * (rows_here of the local tier's shape), it has the index and those that were read lately; a call says which others it wants, and
 * the host sends them. With one token, a layer's call also says what the next layer's is likely to want (mka_tiers_expect); that
 * is sent while other things are computed. What tiers.h says holds here too. */
#ifndef MKA_MEMORY_THERE_H
#define MKA_MEMORY_THERE_H

#include "tiers.h"

/* Bytes that a layer's tiers take on shape's device; shape is of the cache that holds the whole context. */
uint64_t mka_there_bytes(const mka_local_shape *shape, const mka_memory_plan *plan);

/* Bytes of the room in which segments are laid out on their way there. */
size_t mka_there_room(const mka_recall_limits *limits, const mka_memory_plan *plan);

/* The long-term tier's copy, beside a local tier that is there. */
mka_status mka_there_create(mka_tiers *tiers, mka_error *error);
void mka_there_destroy(mka_tiers *tiers);

/* The frozen centre is to be known there. */
void mka_there_freeze(mka_tiers *tiers);

/* Closes segments from..to - 1 of all heads. */
void mka_there_close(mka_tiers *tiers, mka_ops *ops, int from, int to);

/* The layer's rows are not fit: makes room there for the whole context, or takes the cache to memory where that does not fit. */
void mka_there_stay_dense(mka_tiers *tiers, mka_ops *ops, int length);

/* All tokens so far, of which there are length and none was forgotten, are taken to memory, where the layer stays. */
void mka_there_take_here(mka_tiers *tiers, mka_ops *ops, int length);

/* An empty layer whose rows were not fit is about to hold such that are: makes the copy there again, or takes the cache to memory
 * where that does not fit. */
void mka_there_go_back(mka_tiers *tiers, mka_ops *ops);

/* The closed segments here are new: copies all of them there. */
void mka_there_filled(mka_tiers *tiers);

/* Attention of a job whose queries have blocks closed blocks behind their window. */
void mka_there_attend(mka_tiers *tiers, mka_ops *ops, const mka_attend_job *job, int blocks);

/* Adds to shared->used (and to the heads, while somebody watches) what was counted there since the last time, and to the bytes
 * that ops has read. Waits for the device. */
void mka_there_collect(mka_tiers *tiers, mka_ops *ops);

#endif
