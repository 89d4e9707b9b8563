/* eval_tasks - the tasks of `mka eval ruler`, after RULER (arXiv 2404.06654) and others, generated from a seed.
 *
 *   strewn into running text   single, multi-key, multi-value, multi-query (numbers under keys), variables (a chain of
 *                              assignments), two-hop (one fact leads to the other)
 *   a list or a table          common-words, frequent-words, key-value
 *
 * Every prompt ends where the answer begins, so that a model that only continues texts can answer too. */
#include "eval_parts.h"

#include <stdlib.h>
#include <string.h>

const char *const mka_ruler_tasks[] = {"single",       "multi-key",      "multi-value", "multi-query", "variables",
                                       "common-words", "frequent-words", "key-value",   "two-hop",     NULL};
enum { SINGLE, MULTI_KEY, MULTI_VALUE, MULTI_QUERY, VARIABLES, COMMON, FREQUENT, KEY_VALUE, TWO_HOP };

/* What a task is made with. */
typedef struct maker {
    const mka_eval *e;
    const mka_hay *hay;
    size_t length;
    uint64_t random;
    mka_sample *sample;
} maker;

static double depth(maker *m) {
    return (double)mka_eval_below(&m->random, 1000) / 1000;
}

/* ---- numbers under keys ---- */

/* keys: different ones; values: of each. The first asked keys are asked for. */
static int numbers(maker *m, int keys, int values, int asked) {
    mka_fact facts[4];
    size_t nouns[4], adjectives[4];
    char question[400] = "", list[200] = "";
    int count = 0;
    mka_eval_draw(&m->random, mka_words_nouns.count, 4, nouns);
    mka_eval_draw(&m->random, mka_words_adjectives.count, 4, adjectives);
    m->sample->answer_count = 0;
    char found[4][16];
    for (int k = 0; k < keys; k++) {
        char key[48];
        snprintf(key, sizeof key, "%s-%s", mka_words_adjectives.items[adjectives[k]], mka_words_nouns.items[nouns[k]]);
        for (int v = 0; v < values; v++, count++) {
            unsigned number = 1000000 + (unsigned)mka_eval_below(&m->random, 9000000);
            facts[count].depth = depth(m);
            snprintf(facts[count].text, sizeof facts[count].text, " One of the special magic numbers for %s is: %u.", key,
                     number);
            snprintf(found[count], sizeof found[count], "%u", number);
        }
        size_t used = strlen(list);
        if (k < asked) snprintf(list + used, sizeof list - used, "%s%s", k == 0 ? "" : k + 1 == asked ? " and " : ", ", key);
    }
    int many = values * asked > 1;
    snprintf(
        question, sizeof question,
        many ? "\n\nWhat are all the special magic numbers for %s mentioned in the text above? The special magic numbers for %s "
               "mentioned in the text above are"
             : "\n\nWhat is the special magic number for %s mentioned in the text above? The special magic number for %s "
               "mentioned "
               "in the text above is",
        list, list);
    m->sample->new_tokens = many ? 80 : 24;
    int status = mka_sample_strew(m->e, m->hay, m->length,
                                  "Some special magic numbers are hidden within the following text. Memorize them: you will be "
                                  "asked for them afterwards.\n\n",
                                  facts, count, question, &m->random, m->sample);
    for (int i = 0; i < values * asked; i++) mka_sample_answer(m->sample, found[i]);
    return status;
}

/* ---- variables ---- */

enum { CHAIN = 5, CHAINS = 2 };

static int variables(maker *m) {
    mka_fact facts[CHAIN * CHAINS];
    char name[CHAIN * CHAINS][8], question[200];
    unsigned value[CHAINS];
    for (int i = 0; i < CHAIN * CHAINS; i++) {
        int twin;
        do { /* names are different */
            for (int c = 0; c < 5; c++) name[i][c] = (char)('A' + (int)mka_eval_below(&m->random, 26));
            name[i][5] = '\0';
            for (twin = 0; twin < i && strcmp(name[twin], name[i]) != 0;) twin++;
        } while (twin < i);
    }
    for (int c = 0; c < CHAINS; c++) {
        value[c] = 10000 + (unsigned)mka_eval_below(&m->random, 90000);
        for (int i = 0; i < CHAIN; i++) {
            mka_fact *fact = &facts[c * CHAIN + i];
            fact->depth = (i + depth(m)) / CHAIN; /* a variable is assigned after the one that it copies */
            if (i == 0)
                snprintf(fact->text, sizeof fact->text, "\nVAR %s = %u\n", name[c * CHAIN], value[c]);
            else
                snprintf(fact->text, sizeof fact->text, "\nVAR %s = VAR %s\n", name[c * CHAIN + i], name[c * CHAIN + i - 1]);
        }
    }
    snprintf(
        question, sizeof question,
        "\n\nFind all variables that are assigned the value %u in the text above. The %d variables that are assigned the value "
        "%u are:",
        value[0], CHAIN, value[0]);
    m->sample->new_tokens = 48;
    int status = mka_sample_strew(m->e, m->hay, m->length,
                                  "Memorize and track the chains of variable assignments hidden in the following text.\n\n",
                                  facts, CHAIN * CHAINS, question, &m->random, m->sample);
    for (int i = 0; i < CHAIN; i++) mka_sample_answer(m->sample, name[i]);
    return status;
}

/* ---- two hops ---- */

static int two_hop(maker *m) {
    enum { PEOPLE = 4 };
    mka_fact facts[2 * PEOPLE];
    size_t people[PEOPLE], houses[PEOPLE], kinds[PEOPLE], towns[PEOPLE];
    char question[200];
    mka_eval_draw(&m->random, mka_words_names.count, PEOPLE, people);
    mka_eval_draw(&m->random, mka_words_nouns.count, PEOPLE, houses);
    mka_eval_draw(&m->random, mka_words_adjectives.count, PEOPLE, kinds);
    mka_eval_draw(&m->random, mka_words_towns.count, PEOPLE, towns);
    for (int i = 0; i < PEOPLE; i++) {
        const char *kind = mka_words_adjectives.items[kinds[i]], *house = mka_words_nouns.items[houses[i]];
        facts[2 * i].depth = depth(m);
        facts[2 * i + 1].depth = depth(m);
        snprintf(facts[2 * i].text, sizeof facts[0].text, " %s lives in the house of the %s %s.",
                 mka_words_names.items[people[i]], kind, house);
        snprintf(facts[2 * i + 1].text, sizeof facts[0].text, " The house of the %s %s stands in the town of %s.", kind, house,
                 mka_words_towns.items[towns[i]]);
    }
    const char *who = mka_words_names.items[people[0]];
    snprintf(question, sizeof question,
             "\n\nIn which town is the house that %s lives in? The house that %s lives in stands in the town of", who, who);
    m->sample->new_tokens = 12;
    int status = mka_sample_strew(
        m->e, m->hay, m->length,
        "In the following text it is said where some people live. Memorize it: you will be asked for it afterwards.\n\n", facts,
        2 * PEOPLE, question, &m->random, m->sample);
    mka_sample_answer(m->sample, mka_words_towns.items[towns[0]]);
    return status;
}

/* ---- lists and tables ---- */

/* A list of lines that fills a prompt: each is written by its number and tokenized on its own. */
typedef struct list {
    size_t count;
    void (*line)(const struct list *list, size_t index, char *text, size_t room);
    const size_t *order; /* which entry stands at a line */
    const char (*words)[MKA_EVAL_ANSWER];
    const unsigned *keys;
} list;

static int put_list(maker *m, const char *before, const list *l, const char *question) {
    char line[80];
    int status = mka_sample_begin(m->e, m->sample);
    if (status == 0) status = mka_sample_text(m->e, m->sample, before);
    for (size_t i = 0; i < l->count && status == 0; i++) {
        l->line(l, i, line, sizeof line);
        status = mka_sample_text(m->e, m->sample, line);
    }
    return status != 0 ? status : mka_sample_text(m->e, m->sample, question);
}

/* Lines that fit: tokens of the first few tell what one takes; if that was too many, fewer are tried. 0: not even least fit. */
static int fit_list(maker *m, size_t least, int (*put)(maker *m, size_t count)) {
    size_t count = least;
    int status = put(m, count);
    if (status != 0) return status;
    if (m->sample->count > m->length)
        return mka_cli_error("a prompt of %zu tokens is too short for this task; it needs at least %zu", m->length,
                             m->sample->count);
    size_t small = m->sample->count;
    status = put(m, 2 * least);
    if (status != 0) return status;
    double each = (double)(m->sample->count - small) / (double)least;
    count = least + (size_t)((double)(m->length - small) / each);
    for (;; count -= 1 + count / 50) {
        status = put(m, count > least ? count : least);
        if (status != 0 || m->sample->count <= m->length || count <= least) return status;
    }
}

static void shuffle(uint64_t *random, size_t *order, size_t count) {
    for (size_t i = count; i > 1; i--) {
        size_t j = mka_eval_below(random, i), kept = order[j];
        order[j] = order[i - 1];
        order[i - 1] = kept;
    }
}

static void numbered_noun(const list *l, size_t index, char *text, size_t room) {
    snprintf(text, room, " %zu. %s", index + 1, mka_words_nouns.items[l->order[index]]);
}

/* Ten nouns stand ten times as often as any other. */
static int put_common(maker *m, size_t count) {
    enum { TOP = 10, TIMES = 10 };
    uint64_t random = m->random;
    size_t total = mka_words_nouns.count, kinds[300], rare = total - TOP,
           each = (count + TOP * TIMES + rare - 1) / (TOP * TIMES + rare);
    size_t *order = malloc((count + 1) * sizeof *order), at = 0;
    if (order == NULL) return mka_cli_error("out of memory");
    mka_eval_draw(&random, total, total, kinds);
    while (at < count && at < TOP * TIMES * each) order[at] = kinds[at % TOP], at++;
    for (size_t i = 0; at < count; i++, at++) order[at] = kinds[TOP + i % rare];
    shuffle(&random, order, count);
    list l = {.count = count, .line = numbered_noun, .order = order};
    int status =
        put_list(m,
                 "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
                 "appear most often.\n",
                 &l,
                 "\n\nWhat are the 10 most common words in the above list? The top 10 words that appear most often in the "
                 "list are:");
    free(order);
    m->sample->new_tokens = 80;
    for (int i = 0; status == 0 && i < TOP; i++) mka_sample_answer(m->sample, mka_words_nouns.items[kinds[i]]);
    return status;
}

static void coded_word(const list *l, size_t index, char *text, size_t room) {
    snprintf(text, room, " %s", l->words[l->order[index]]);
}

/* Coded words whose frequencies fall with the square of their rank; the first three are asked for. */
static int put_frequent(maker *m, size_t count) {
    enum { WORDS = 40, TOP = 3 };
    char words[WORDS][MKA_EVAL_ANSWER];
    uint64_t random = m->random;
    double sum = 0;
    size_t *order = malloc((count + 1) * sizeof *order), at = 0;
    if (order == NULL) return mka_cli_error("out of memory");
    for (int w = 0; w < WORDS; w++) {
        static const char consonants[] = "bdfgklmnprstvz", vowels[] = "aeiou";
        for (int c = 0; c < 6; c++)
            words[w][c] = c % 2 ? vowels[mka_eval_below(&random, 5)] : consonants[mka_eval_below(&random, 14)];
        words[w][6] = '\0';
        for (int twin = 0; twin < w; twin++)
            if (strcmp(words[twin], words[w]) == 0) {
                w--; /* again */
                break;
            }
    }
    for (int w = 1; w <= WORDS; w++) sum += 1.0 / (w * w);
    for (int w = WORDS; w > 1; w--)
        for (size_t i = w > TOP; at < count && i < 1 + (size_t)((double)count / sum / (w * w)); i++)
            order[at++] = (size_t)(w - 1);
    while (at < count) order[at++] = 0;
    shuffle(&random, order, count);
    list l = {.count = count, .line = coded_word, .order = order, .words = (const char(*)[MKA_EVAL_ANSWER])words};
    int status =
        put_list(m,
                 "Read the following coded text and track the frequency of each coded word. Find the three most frequently "
                 "appeared coded words.\n",
                 &l,
                 "\n\nWhat are the three most frequently appeared words in the above coded text? The three words that appear "
                 "most often are:");
    free(order);
    m->sample->new_tokens = 40;
    for (int i = 0; status == 0 && i < TOP; i++) mka_sample_answer(m->sample, words[i]);
    return status;
}

static void key_value(const list *l, size_t index, char *text, size_t room) {
    snprintf(text, room, "\"%08x\": \"%08x\",\n", l->keys[2 * index], l->keys[2 * index + 1]);
}

static int put_key_value(maker *m, size_t count) {
    uint64_t random = m->random;
    char question[200], answer[16];
    unsigned *keys = malloc(2 * (count + 1) * sizeof *keys);
    if (keys == NULL) return mka_cli_error("out of memory");
    size_t asked = mka_eval_below(&random, count);
    /* Odd multiples keep 32-bit keys different from each other. */
    for (size_t i = 0; i < count; i++) {
        keys[2 * i] = ((unsigned)i * 2 + 1) * 2654435761U ^ (unsigned)m->random;
        keys[2 * i + 1] = (unsigned)mka_eval_random(&random);
    }
    list l = {.count = count, .line = key_value, .keys = keys};
    snprintf(question, sizeof question, "}\n\nThe value of the key \"%08x\" in the JSON object above is \"", keys[2 * asked]);
    snprintf(answer, sizeof answer, "%08x", keys[2 * asked + 1]);
    int status = put_list(m, "Extract the value of a key from the JSON object below.\n\n{", &l, question);
    free(keys);
    m->sample->new_tokens = 16;
    if (status == 0) mka_sample_answer(m->sample, answer);
    return status;
}

int mka_ruler_sample(const mka_eval *e, const mka_hay *hay, int task, size_t length, uint64_t seed, mka_sample *sample) {
    maker m = {e, hay, length, seed, sample};
    switch (task) {
    case SINGLE:
        return numbers(&m, 1, 1, 1);
    case MULTI_KEY:
        return numbers(&m, 4, 1, 1);
    case MULTI_VALUE:
        return numbers(&m, 1, 4, 1);
    case MULTI_QUERY:
        return numbers(&m, 4, 1, 4);
    case VARIABLES:
        return variables(&m);
    case COMMON:
        return fit_list(&m, 40, put_common);
    case FREQUENT:
        return fit_list(&m, 20, put_frequent);
    case KEY_VALUE:
        return fit_list(&m, 2, put_key_value);
    default:
        return two_hop(&m);
    }
}
