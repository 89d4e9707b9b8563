/* engine - this machine as the library uses it: topology, threads, kernels. What mka_engine points to. */
#ifndef MKA_OPS_ENGINE_H
#define MKA_OPS_ENGINE_H

#include <mka/mka.h>
#include <pthread.h>

#include "base/thread.h"
#include "base/topology.h"
#include "kernels.h"

struct mka_engine {
    mka_topology *topology;
    mka_pool *pool;
    const mka_kernels *kernels;
    mka_log_fn *log;
    void *log_user;
    int blas_alone; /* 1: this OpenBLAS was built without threads or locks, so calls to it take turns */
    pthread_mutex_t blas_turn;
    struct mka_device *device; /* NULL: all is computed on the CPU */
};

void mka_log(const mka_engine *engine, mka_log_level level, const char *format, ...) MKA_PRINTF(3, 4);

#endif
