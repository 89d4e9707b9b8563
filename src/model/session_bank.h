/* session_bank - what session.c and session_file.c ask of a session's long-term bank. All of it does nothing, or says 0, where
 * the session has none. */
#ifndef MKA_MODEL_SESSION_BANK_H
#define MKA_MODEL_SESSION_BANK_H

#include "format/snapshot.h"
#include "session.h"

enum { MKA_BANK_REGIONS = 3 }; /* of a layer */

/* Room for the banks' own region while a file is written. */
typedef struct mka_session_bank_head {
    int32_t bytes[8];
} mka_session_bank_head;

/* Settles how large the banks are (session->bank); session->tiered is known. MKA_BAD_ARGUMENT, MKA_UNSUPPORTED. */
mka_status mka_session_bank_choose(mka_session *session, mka_error *error);
void mka_session_bank_layout(mka_session *session);
/* What all of them take at most, without what is remembered. */
uint64_t mka_session_bank_bytes(const mka_session *session);
mka_status mka_session_bank_create(mka_session *session, int layer, mka_error *error);

/* Fills regions [1 + layers * MKA_BANK_REGIONS] for a file, and returns how many there are. */
size_t mka_session_bank_save(mka_session *session, mka_session_bank_head *room, mka_region *regions);

/* Capacity of a file's banks, 0: it has none; sinks and window of plan become theirs. */
int mka_session_bank_peek(mka_snapshot *snapshot, mka_memory_plan *plan, mka_error *error);

/* Whether a file of length tokens fits: MKA_BAD_ARGUMENT says what differs. */
mka_status mka_session_bank_check(const mka_session *session, mka_snapshot *snapshot, int length, const char *path,
                                  mka_error *error);

/* Reading one that does: sets the banks of an empty session up; then the regions to be read; then what follows, or what undoes
 * it. */
mka_status mka_session_bank_set(mka_session *session, mka_snapshot *snapshot, int length, mka_error *error);
size_t mka_session_bank_regions(mka_session *session, mka_region *regions);
void mka_session_bank_finish(mka_session *session, int failed);

#endif
