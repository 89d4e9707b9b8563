/* program - see program.h. On disk a compiled program is FOLDER/HASH.bin: a checksum, then what the driver gave. The hash is over
 * device, driver, options and source, so that nothing is ever found that does not fit; files that went bad do not match their sum
 * and are built anew. */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/status.h"
#include "runtime.h"

#define MOST_BINARY ((size_t)256 << 20)

/* ---- the folder ---- */

static void forget_folder(mka_device *d, const char *path) {
    mka_log(d->engine, MKA_LOG_WARN, "compiled kernels cannot be kept in %s (%s); they are compiled at every start", path,
            strerror(errno));
    d->programs.folder[0] = 0;
}

/* Makes every folder of the path; 0 where that is refused. */
static int make_folders(char *path) {
    for (char *at = path + 1;; at++) {
        if (*at != '/' && *at) continue;
        char end = *at;
        *at = 0;
        int made = mkdir(path, 0777) == 0 || errno == EEXIST;
        *at = end;
        if (!made) return 0;
        if (!end) return 1;
    }
}

void mka_cl_programs_open(mka_device *d) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *folder = d->programs.folder;
    size_t room = sizeof d->programs.folder - 32; /* for a file's name */
    int length = -1;
    if (cache && *cache == '/')
        length = snprintf(folder, room, "%s/mka/opencl", cache);
    else if (home && *home == '/')
        length = snprintf(folder, room, "%s/.cache/mka/opencl", home);
    if (length < 0 || (size_t)length >= room)
        folder[0] = 0;
    else if (!make_folders(folder) || access(folder, W_OK) != 0)
        forget_folder(d, folder);
}

void mka_cl_programs_close(mka_cl_programs *programs) {
    for (int i = 0; i < programs->count; i++) {
        mka_cl_program *p = programs->list[i];
        for (int k = 0; k < p->kernels; k++) clReleaseKernel(p->kernel[k]);
        clReleaseProgram(p->program);
        free(p);
    }
    free(programs->list);
    *programs = (mka_cl_programs){.count = 0};
}

/* ---- compiled programs on disk ---- */

static const char *source_of(const char *file) {
    for (const mka_cl_source *s = mka_cl_sources; s->name; s++)
        if (!strcmp(s->name, file)) return s->text;
    return "";
}

enum { PARTS = 7 };

/* What comes before a file, besides NVIDIA's instructions or the stored types. */
static const struct {
    const char *file, *before[PARTS - 2];
} made_of[] = {{"attend_decode_nv", {"attend_rows_nv", "attend_products_nv", "attend_parts_nv"}},
               {"chain_nv", {"gemv_nv", "attend_rows_nv", "attend_products_nv", "attend_parts_nv", "attend_decode_nv"}},
               {"recall_read_nv", {"recall_nv", "recall_score_nv", "recall_choose_nv", "recall_join_nv"}}};

/* A program's source: NVIDIA's instructions where the file's name ends in _nv, else the stored types; what it is made of besides;
 * the file. */
static void sources_of(const char *file, const char *parts[PARTS]) {
    size_t length = strlen(file), count = sizeof made_of / sizeof *made_of, of = 0;
    while (of < count && strcmp(made_of[of].file, file) != 0) of++;
    parts[0] = source_of(length > 3 && !strcmp(file + length - 3, "_nv") ? "nv" : "common");
    for (size_t i = 0; i < PARTS - 2; i++)
        parts[1 + i] = of < count && made_of[of].before[i] ? source_of(made_of[of].before[i]) : "";
    parts[PARTS - 1] = source_of(file);
}

static void path_of(const mka_device *d, const char *file, const char *options, char *path, size_t room) {
    const char *parts[3 + PARTS] = {d->identity, file, options};
    XXH64_hash_t hash = 0;
    sources_of(file, parts + 3);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) hash = XXH3_64bits_withSeed(parts[i], strlen(parts[i]) + 1, hash);
    snprintf(path, room, "%s/%016llx.bin", d->programs.folder, (unsigned long long)hash);
}

/* The bytes of a program that was kept, to be freed; NULL where there is none that holds. */
static unsigned char *read_kept(const char *path, size_t *size) {
    uint64_t sum;
    struct stat info;
    unsigned char *bytes = NULL;
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    if (fstat(fileno(file), &info) == 0 && info.st_size > (off_t)sizeof sum && (uint64_t)info.st_size < MOST_BINARY) {
        *size = (size_t)info.st_size - sizeof sum;
        bytes = malloc(*size);
    }
    if (bytes &&
        (fread(&sum, sizeof sum, 1, file) != 1 || fread(bytes, 1, *size, file) != *size || XXH3_64bits(bytes, *size) != sum)) {
        free(bytes);
        bytes = NULL;
    }
    fclose(file);
    return bytes;
}

/* Beside its place and then there at once, so that no one ever reads half of it. */
static int write_kept(const char *path, const unsigned char *bytes, size_t size) {
    char partial[1200];
    uint64_t sum = XXH3_64bits(bytes, size);
    snprintf(partial, sizeof partial, "%s.%ld", path, (long)getpid());
    FILE *file = fopen(partial, "wb");
    if (!file) return 0;
    int written = fwrite(&sum, sizeof sum, 1, file) == 1 && fwrite(bytes, 1, size, file) == size;
    written = fclose(file) == 0 && written && rename(partial, path) == 0;
    int reason = errno;
    if (!written) unlink(partial);
    errno = reason;
    return written;
}

static void keep(mka_device *d, cl_program program, const char *path) {
    size_t size = 0;
    if (clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, NULL) != CL_SUCCESS || !size || size > MOST_BINARY)
        return;
    unsigned char *bytes = malloc(size);
    if (!bytes) return;
    if (clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof bytes, &bytes, NULL) == CL_SUCCESS &&
        !write_kept(path, bytes, size))
        forget_folder(d, d->programs.folder);
    free(bytes);
}

/* A built program of what was kept, or NULL. What a driver gave may be far from what runs, and wants its options again. */
static cl_program load_kept(mka_device *d, const char *path, const char *options) {
    size_t size = 0;
    cl_int code, each;
    const unsigned char *bytes = read_kept(path, &size);
    if (!bytes) return NULL;
    cl_program program = clCreateProgramWithBinary(d->context, 1, &d->id, &size, &bytes, &each, &code);
    free((void *)(uintptr_t)bytes);
    if (code != CL_SUCCESS) return NULL;
    if (each == CL_SUCCESS && clBuildProgram(program, 1, &d->id, options, NULL, NULL) == CL_SUCCESS) return program;
    clReleaseProgram(program);
    return NULL;
}

/* ---- building ---- */

/* The driver's own words: line by line to the engine's log, and the first line that speaks of an error to the message. */
static mka_status build_failed(mka_device *d, cl_program program, const char *file, cl_int code, mka_error *error) {
    size_t size = 0;
    char text[24], first[200] = "";
    clGetProgramBuildInfo(program, d->id, CL_PROGRAM_BUILD_LOG, 0, NULL, &size);
    char *log = calloc(1, size + 1), *rest = NULL;
    if (log) clGetProgramBuildInfo(program, d->id, CL_PROGRAM_BUILD_LOG, size, log, NULL);
    for (char *line = log ? strtok_r(log, "\n", &rest) : NULL; line; line = strtok_r(NULL, "\n", &rest)) {
        mka_log(d->engine, MKA_LOG_ERROR, "%s", line);
        if (!first[0] && strstr(line, "error")) snprintf(first, sizeof first, ": %s", line);
    }
    free(log);
    return mka_fail(error, MKA_UNSUPPORTED, "%s: its driver cannot build kernels/%s.cl (%s)%s", d->info.name, file,
                    mka_cl_error_name(code, text), first);
}

static mka_status build(mka_device *d, const char *file, const char *options, cl_program *program, mka_error *error) {
    char path[1100] = "", text[24];
    cl_int code;
    if (d->programs.folder[0]) {
        path_of(d, file, options, path, sizeof path);
        *program = load_kept(d, path, options);
        if (*program) return MKA_OK;
    }
    const char *parts[PARTS];
    sources_of(file, parts);
    *program = clCreateProgramWithSource(d->context, PARTS, parts, NULL, &code);
    if (code != CL_SUCCESS)
        return mka_fail(error, MKA_UNSUPPORTED, "%s: its driver takes no source (%s)", d->info.name,
                        mka_cl_error_name(code, text));
    code = clBuildProgram(*program, 1, &d->id, options, NULL, NULL);
    if (code != CL_SUCCESS) {
        mka_status status = build_failed(d, *program, file, code, error);
        clReleaseProgram(*program);
        return status;
    }
    if (path[0]) keep(d, *program, path);
    return MKA_OK;
}

static mka_cl_program *find(const mka_cl_programs *programs, const char *file, const char *options) {
    for (int i = 0; i < programs->count; i++)
        if (!strcmp(programs->list[i]->file, file) && !strcmp(programs->list[i]->options, options)) return programs->list[i];
    return NULL;
}

static mka_status add_program(mka_device *d, const char *file, const char *options, mka_cl_program **out, mka_error *error) {
    mka_cl_programs *all = &d->programs;
    mka_cl_program *p = calloc(1, sizeof *p), **list = realloc(all->list, ((size_t)all->count + 1) * sizeof *list);
    if (list) all->list = list;
    mka_status status = p && list ? build(d, file, options, &p->program, error)
                                  : mka_fail(error, MKA_NO_MEMORY, "no memory for a device's programs");
    if (status) {
        free(p);
        return status;
    }
    p->file = file;
    snprintf(p->options, sizeof p->options, "%s", options);
    all->list[all->count++] = p;
    *out = p;
    return MKA_OK;
}

mka_status mka_cl_kernel(mka_device *d, const char *file, const char *name, cl_kernel *kernel, mka_error *error,
                         const char *format, ...) {
    char options[MKA_CL_OPTIONS], text[24];
    va_list list;
    int used = snprintf(options, sizeof options, "-cl-std=CL1.2 ");
    va_start(list, format);
    vsnprintf(options + used, sizeof options - (size_t)used, format, list);
    va_end(list);
    *kernel = NULL;
    mka_cl_program *p = find(&d->programs, file, options);
    if (!p) {
        mka_status status = add_program(d, file, options, &p, error);
        if (status) return status;
    }
    for (int i = 0; i < p->kernels && !*kernel; i++)
        if (!strcmp(p->name[i], name)) *kernel = p->kernel[i];
    if (*kernel) return MKA_OK;
    cl_int code;
    cl_kernel made = clCreateKernel(p->program, name, &code);
    if (code != CL_SUCCESS || p->kernels == MKA_CL_KERNELS) {
        if (made) clReleaseKernel(made);
        return mka_fail(error, MKA_UNSUPPORTED, "%s: kernel %s of kernels/%s.cl cannot be had (%s)", d->info.name, name, file,
                        mka_cl_error_name(code, text));
    }
    p->name[p->kernels] = name;
    *kernel = p->kernel[p->kernels++] = made;
    return MKA_OK;
}
