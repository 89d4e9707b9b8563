/* eval_f1 - see eval_f1.h. */
#include "eval_f1.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* The words of a text in a row of their own, each ended by NUL; *count of them. NULL: no memory. The caller frees it. */
static char *words_of(const char *text, size_t *count) {
    size_t length = strlen(text), used = 0, begin = 0;
    char *words = malloc(length + 2);
    *count = 0;
    for (size_t i = 0; words != NULL && i <= length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 128 && ispunct(c)) continue; /* gone, not a gap: "it's" is its */
        if (c != '\0' && !(c < 128 && isspace(c))) {
            words[used++] = (char)(c < 128 ? tolower(c) : c);
            continue;
        }
        words[used] = '\0';
        const char *word = words + begin;
        if (used == begin || strcmp(word, "a") == 0 || strcmp(word, "an") == 0 || strcmp(word, "the") == 0) {
            used = begin;
        } else {
            begin = ++used;
            ++*count;
        }
    }
    return words;
}

static int compare_words(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static const char **sorted(const char *words, size_t count) {
    const char **list = malloc((count + 1) * sizeof *list);
    if (list == NULL) return NULL;
    for (size_t i = 0; i < count; i++, words += strlen(words) + 1) list[i] = words;
    qsort(list, count, sizeof *list, compare_words);
    return list;
}

/* Words that two sorted lists share, with repetitions. */
static size_t shared_words(const char **a, size_t a_count, const char **b, size_t b_count) {
    size_t shared = 0;
    for (size_t i = 0, j = 0; i < a_count && j < b_count;) {
        int order = strcmp(a[i], b[j]);
        shared += order == 0;
        i += order <= 0;
        j += order >= 0;
    }
    return shared;
}

double mka_f1(const char *answer, const char *wanted) {
    const char *texts[2] = {answer, wanted};
    char *words[2] = {NULL, NULL};
    const char **lists[2] = {NULL, NULL};
    size_t counts[2] = {0, 0}, shared = 0;
    for (int i = 0; i < 2; i++) {
        words[i] = words_of(texts[i], &counts[i]);
        if (words[i] != NULL) lists[i] = sorted(words[i], counts[i]);
    }
    if (lists[0] != NULL && lists[1] != NULL) shared = shared_words(lists[0], counts[0], lists[1], counts[1]);
    for (int i = 0; i < 2; i++) {
        free(words[i]);
        free(lists[i]);
    }
    return shared > 0 ? 2.0 * (double)shared / (double)(counts[0] + counts[1]) : 0;
}
