/* stored_there - a local tier on a device as regions of a saved file: the same bytes as of one in memory, so that either loads
 * the other's files. A region is brought together when the first of its bytes is written to the file, and goes there when the
 * last of them was read: as much memory as its own is taken meanwhile. */
#ifndef MKA_MEMORY_STORED_THERE_H
#define MKA_MEMORY_STORED_THERE_H

#include "format/snapshot.h"
#include "tiers.h"

/* What a region is of; it must live as long as the region. */
typedef struct mka_stored_there {
    const mka_local *local;
    mka_device_plane plane;
    int first, to;       /* tokens of the region: tiles from first on, up to token to - 1 */
    int from;            /* those before it are zeros in the file, or do not go to the device */
    unsigned char *room; /* while it is borrowed */
} mka_stored_there;

/* Makes region (whose name is set) of what is set of part; bytes of it may be 0. */
void mka_stored_there_region(mka_stored_there *part, mka_region *region);

#endif
