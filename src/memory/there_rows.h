/* there_rows - long-term rows that stay in memory while the rest of the tiers is on a device: laid out for it when a recall there
 * wants them. */
#ifndef MKA_MEMORY_THERE_ROWS_H
#define MKA_MEMORY_THERE_ROWS_H

#include "tiers.h"

/* Whose rows, and how they are to lie (mka_device_ring_place). */
typedef struct mka_there_rows {
    mka_tiers *tiers;
    mka_pool *pool;
    size_t place, value_at;
} mka_there_rows;

/* The fetch of mka_recall_job_there, whose owner is a mka_there_rows. A failure is the tiers'. */
void mka_there_fetch(void *rows, const mka_device_missing *list, int count, unsigned char *room);

#endif
