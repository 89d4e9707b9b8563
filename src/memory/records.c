/* records - see records.h. */
#include "records.h"

#include "base/status.h"

mka_status mka_records_create(size_t bytes, size_t count, int heads, size_t stretch, mka_spill *spill, mka_records *records,
                              mka_error *error) {
    *records = (mka_records){.bytes = (bytes + MKA_ALIGN - 1) / MKA_ALIGN * MKA_ALIGN, .count = count * (size_t)heads};
    count = records->count;
    size_t all;
    if (spill) {
        mka_status status = mka_spill_add(spill, records->bytes, count, heads, stretch, &records->part, error);
        if (status) *records = (mka_records){.pages = NULL};
        return status;
    }
    if (mka_size_mul(records->bytes, count, &all)) records->pages = mka_pages_map(all ? all : 1);
    if (records->pages) return MKA_OK;
    *records = (mka_records){.pages = NULL};
    return mka_fail(error, MKA_NO_MEMORY, "the system gives no address space for %zu records of long-term memory", count);
}

void mka_records_destroy(mka_records *records) {
    size_t all = records->bytes * records->count;
    if (records->pages) mka_pages_unmap(records->pages, all ? all : 1);
    mka_spill_remove(&records->part);
    *records = (mka_records){.pages = NULL};
}

unsigned char *mka_records_put(mka_records *records, size_t index, mka_error *error) {
    return records->pages ? records->pages + index * records->bytes : mka_spill_put(&records->part, index, error);
}

mka_status mka_records_commit(mka_records *records, size_t index, mka_error *error) {
    return records->pages ? MKA_OK : mka_spill_commit(&records->part, index, error);
}

const unsigned char *mka_records_get(mka_records *records, size_t index, mka_error *error) {
    return records->pages ? records->pages + index * records->bytes : mka_spill_get(&records->part, index, error);
}

void mka_records_release(mka_records *records, size_t index) {
    if (!records->pages) mka_spill_release(&records->part, index);
}

void mka_records_forget(mka_records *records, size_t from, size_t count) {
    if (records->pages)
        mka_pages_discard(records->pages + from * records->bytes, count * records->bytes);
    else
        mka_spill_forget(&records->part, from, count);
}
