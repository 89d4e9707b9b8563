/* program - kernels from their sources: built for one device with options, kept for its lifetime, and on disk between runs. */
#ifndef MKA_OPENCL_PROGRAM_H
#define MKA_OPENCL_PROGRAM_H

#include <CL/cl.h>
#include <mka/mka.h>

struct mka_device;

typedef struct mka_cl_source {
    const char *name, *text;
} mka_cl_source;

/* The files of kernels/, without their endings; name NULL ends the list. */
extern const mka_cl_source mka_cl_sources[];

/* One file built with one set of options, and the kernels of it that were asked for. */
enum { MKA_CL_OPTIONS = 256, MKA_CL_KERNELS = 16 };
typedef struct mka_cl_program {
    const char *file;
    char options[MKA_CL_OPTIONS];
    cl_program program;
    cl_kernel kernel[MKA_CL_KERNELS];
    const char *name[MKA_CL_KERNELS]; /* static strings */
    int kernels;
} mka_cl_program;

typedef struct mka_cl_programs {
    mka_cl_program **list;
    int count;
    char folder[1024]; /* where compiled programs are kept; "": nowhere */
} mka_cl_programs;

/* Finds or makes the folder; says so once where it cannot be written. */
void mka_cl_programs_open(struct mka_device *device);
void mka_cl_programs_close(mka_cl_programs *programs);

/* The named kernel of kernels/FILE.cl, built after common.cl (files *_nv: after nv.cl, and FAMILY_MORE_nv after FAMILY_nv where
 * there is one, and chain_nv after those it is made of) with these options (printf). The caller holds the device's lock.
 * MKA_UNSUPPORTED: the driver refuses; the message has the beginning of its log, and all of it goes to the engine's. */
mka_status mka_cl_kernel(struct mka_device *device, const char *file, const char *name, cl_kernel *kernel, mka_error *error,
                         const char *options, ...) MKA_PRINTF(6, 7);

#endif
