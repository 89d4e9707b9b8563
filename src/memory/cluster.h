/* cluster - groups the tokens of a segment that look alike, so that a query can be held against one centroid instead of many
 * keys, and one mean value can stand in for many values.
 *
 * Two rounds of Lloyd's algorithm on keys and values side by side, each scaled to unit variance, from evenly spaced tokens. With
 * one, a token that is like no other stays in a cluster where nothing is found of it: heads that look for it are off by two to
 * three times as much in the worst case. More rounds change little. Values take part because what a query gets from a cluster
 * that it does not read is its mean value. The idea of reading a cache by clusters is RetroInfer's (arXiv 2505.02922). */
#ifndef MKA_MEMORY_CLUSTER_H
#define MKA_MEMORY_CLUSTER_H

#include "kernels.h"

/* Tokens of a segment are a power of two between MKA_SEGMENT_LEAST and MKA_SEGMENT_MOST; there are MKA_CLUSTER_TOKENS to a
 * cluster, on average. */
enum {
    MKA_CLUSTER_TOKENS = 8,
    MKA_SEGMENT_LEAST = 256,
    MKA_SEGMENT_MOST = 2048,
    MKA_CLUSTERS_MOST = MKA_SEGMENT_MOST / MKA_CLUSTER_TOKENS
};

/* Bytes that mka_cluster works in, a multiple of 64. */
size_t mka_cluster_scratch(int tokens, int key_dim, int value_dim);

/* points [tokens][key_dim + value_dim]: keys, then values. Token order[i] stands at place i of the segment, and cluster c
 * takes places start[c]..start[c + 1] - 1, in order of its tokens; some clusters may be empty. order [tokens], start [tokens /
 * MKA_CLUSTER_TOKENS + 1]; scratch is 64-byte aligned. */
void mka_cluster(const mka_kernels *kernels, int tokens, int key_dim, int value_dim, const float *points, void *scratch,
                 uint16_t *order, uint16_t *start);

#endif
