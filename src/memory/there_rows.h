/* there_rows - long-term rows that stay in memory while the rest of the tiers is on a device: laid out for it when a recall there
 * wants them. */
#ifndef MKA_MEMORY_THERE_ROWS_H
#define MKA_MEMORY_THERE_ROWS_H

#include "tiers.h"

/* The fetch of mka_recall_job_there, whose owner is a mka_tiers with its pool set. A failure is the tiers'. */
size_t mka_there_fetch(void *tiers, const mka_device_missing *list, int count, unsigned char *room);

#endif
