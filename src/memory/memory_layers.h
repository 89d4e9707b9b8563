/* memory_layers - what mka_memory points to. */
#ifndef MKA_MEMORY_MEMORY_LAYERS_H
#define MKA_MEMORY_MEMORY_LAYERS_H

#include "placement.h"

typedef struct mka_memory_layer {
    mka_tiers tiers;
    int length;
} mka_memory_layer;

struct mka_memory {
    mka_memory_options options;
    mka_pair ops;
    mka_residents *residents; /* of no weights, which a device's operations want to know; NULL: all is in memory */
    int rows_there;           /* with it: as many of the first layers have all their long-term rows there */
    mka_arena work;
    mka_tiers_shared shared;
    mka_placement placement;
    mka_memory_layer *layers; /* [options.layers] */
};

/* The operations that the layers' tiers take. */
static inline mka_ops *mka_memory_ops(mka_memory *memory) {
    return memory->residents ? &memory->ops.device : &memory->ops.host;
}

#endif
