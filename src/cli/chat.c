/* chat - a conversation that stays in one session.
 *
 *   messages -> template -> ids -> the part the session does not hold yet -> answer -> messages
 *
 * The cache is the point: a turn evaluates its own tokens only. After an answer the new text begins with what was evaluated,
 * followed by a special token that ends the turn, so the rest can be tokenized alone. Where that does not hold (a template
 * that trims the answer), all of it is tokenized and the session is cut back to the ids that agree.
 */
#include "answer.h"
#include "commands.h"
#include "resume.h"
#include "reuse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEFAULT_CONTEXT = 4096, DEFAULT_TOKENS = 512 };

typedef struct chat {
    mka_engine *engine;
    mka_model *model;
    mka_session *session;
    mka_sampler *sampler;
    mka_cli_answer answer;
    mka_message *messages; /* contents and the array are owned */
    int count, room;
    int base;  /* tokens before the conversation */
    int *held; /* ids in the session after those */
    size_t held_count;
    char *past; /* text that the held ids and the pending one stand for; NULL: not known */
    size_t past_length;
    int pending; /* the last answer's last token when that was shown but not evaluated, else -1 */
    int terminal, colors, failed;
} chat;

/* Copies both: what is loaded with a session is given back before the conversation ends. */
static int add_message(chat *c, const char *role, const char *content, size_t length) {
    if (c->count == c->room) {
        int room = 2 * c->room + 8;
        mka_message *larger = realloc(c->messages, (size_t)room * sizeof *larger);
        if (larger == NULL) return mka_cli_error("out of memory");
        c->messages = larger;
        c->room = room;
    }
    size_t role_room = strlen(role) + 1;
    char *copy = malloc(length + 1 + role_room);
    if (copy == NULL) return mka_cli_error("out of memory");
    memcpy(copy, content, length);
    copy[length] = '\0';
    memcpy(copy + length + 1, role, role_room);
    c->messages[c->count++] = (mka_message){copy + length + 1, copy};
    return 0;
}

static void drop_messages(chat *c, int keep) {
    while (c->count > keep) free((char *)c->messages[--c->count].content);
}

/* Back to what was there before the conversation. A memory that has moved to other tiers since is loaded again. */
static int start_over(mka_cli *cli, chat *c) {
    mka_error error = {0};
    mka_status status = mka_session_truncate(c->session, c->base, &error);
    if (status == MKA_UNSUPPORTED && cli->options.remembered > 0) return mka_cli_resume_remember(cli, c->model, c->session);
    if (status == MKA_OK && cli->options.bank_files > 0) return mka_cli_open_banks(cli, c->session);
    if (status == MKA_UNSUPPORTED) {
        c->base = 0; /* of a saved conversation: its memory cannot be had alone */
        status = mka_session_truncate(c->session, 0, &error);
    }
    return status == MKA_OK ? 0 : mka_cli_failure(&error, 0);
}

static int reset(mka_cli *cli, chat *c) {
    drop_messages(c, 0);
    free(c->past);
    c->past = NULL;
    c->held_count = c->past_length = 0;
    c->pending = -1;
    int status = start_over(cli, c);
    if (status != 0) return status;
    const char *system = cli->options.system;
    return system != NULL ? add_message(c, "system", system, strlen(system)) : 0;
}

/* Whether a token is a marker: it has a text of its own only when special tokens are shown. */
static int is_marker(const mka_model *model, int token) {
    return mka_token_piece(model, token, 0, NULL, 0) == 0 && mka_token_piece(model, token, 1, NULL, 0) > 0;
}

/* Cuts the session back to the first keep tokens. A session that cannot go back there starts over. */
static int cut(mka_cli *cli, chat *c, size_t keep) {
    mka_error error = {0};
    size_t before = c->held_count;
    if (keep + (size_t)c->base == (size_t)mka_session_length(c->session)) return 0;
    mka_status cut_back = mka_session_truncate(c->session, c->base + (int)keep, &error);
    int status = cut_back == MKA_OK || cut_back == MKA_UNSUPPORTED ? 0 : mka_cli_failure(&error, 0);
    if (cut_back == MKA_UNSUPPORTED) {
        keep = 0;
        status = start_over(cli, c);
    }
    if (status != 0) return status;
    c->held_count = keep;
    if (keep < before) {
        free(c->past);
        c->past = NULL;
        c->pending = -1;
    }
    return 0;
}

/* Ids that follow those the session holds, for a conversation whose text is given; *ids is the caller's to free. */
static int new_ids(mka_cli *cli, chat *c, const char *text, size_t length, unsigned flags, int **ids, size_t *count) {
    if (c->past != NULL && length > c->past_length && memcmp(text, c->past, c->past_length) == 0) {
        int status = mka_cli_tokenize(c->model, text + c->past_length, length - c->past_length, MKA_TOKENIZE_SPECIAL, ids, count);
        if (status != 0) return status;
        if (*count > 0 && is_marker(c->model, (*ids)[0])) {
            if (c->pending < 0) return 0;
            int *joined = malloc((*count + 1) * sizeof *joined);
            if (joined == NULL) {
                free(*ids);
                *ids = NULL;
                return mka_cli_error("out of memory");
            }
            joined[0] = c->pending;
            memcpy(joined + 1, *ids, *count * sizeof *joined);
            free(*ids);
            *ids = joined;
            *count += 1;
            return 0;
        }
        free(*ids);
    }
    int status = mka_cli_tokenize(c->model, text, length, flags, ids, count);
    if (status != 0) return status;
    size_t common = 0;
    while (common < c->held_count && common + 1 < *count && c->held[common] == (*ids)[common]) common++;
    status = cut(cli, c, common);
    if (status == 0) {
        *count -= c->held_count;
        memmove(*ids, *ids + c->held_count, *count * sizeof **ids);
    } else {
        free(*ids);
        *ids = NULL;
    }
    return status;
}

/* Notes what the session holds after a turn, and the text that stands for it. */
static int remember(chat *c, const char *text, size_t length, const int *ids, size_t count) {
    memcpy(c->held + c->held_count, ids, count * sizeof *ids);
    memcpy(c->held + c->held_count + count, c->answer.ids, c->answer.decoded * sizeof *ids);
    c->held_count += count + c->answer.decoded;
    free(c->past);
    c->past = malloc(length + c->answer.length + 1);
    if (c->past == NULL) {
        c->past_length = 0;
        return mka_cli_error("out of memory");
    }
    memcpy(c->past, text, length);
    memcpy(c->past + length, c->answer.text, c->answer.length);
    c->past_length = length + c->answer.length;
    c->pending = c->answer.count > c->answer.decoded ? c->answer.ids[c->answer.count - 1] : -1;
    return add_message(c, "assistant", c->answer.text, c->answer.length);
}

static int show_answer(mka_cli *cli, chat *c) {
    if (cli->options.json) {
        mka_cli_json(cli, mka_cli_answer_json(&c->answer, c->session));
    } else {
        mka_cli_print(cli, "\n");
        mka_cli_flush(cli);
    }
    if (strcmp(c->answer.stop, "context") == 0) {
        mka_cli_note("the answer ended because the context of %d tokens is full; /reset starts a new conversation",
                     mka_session_context(c->session));
    }
    if (cli->options.verbose > 0) mka_cli_answer_statistics(&c->answer, c->session);
    return 0;
}

static int no_room(chat *c, size_t count) {
    return mka_cli_error("the context is full: %d tokens are held and this turn needs %zu more, but there is room for %d; "
                         "/reset starts a new conversation, a larger -c gives more room",
                         mka_session_length(c->session), count, mka_session_context(c->session));
}

/* Answers the last message. A turn that fails leaves the conversation as it was before it. */
static int answer_turn(mka_cli *cli, chat *c) {
    char *text = NULL;
    int *ids = NULL;
    size_t length = 0, count = 0;
    unsigned flags = 0;
    int status = mka_cli_format_chat(cli, c->model, c->messages, c->count, &text, &length, &flags);
    if (status == 0) status = new_ids(cli, c, text, length, c->base > 0 ? flags & ~MKA_TOKENIZE_BOS : flags, &ids, &count);
    if (status == 0 && count > (size_t)(mka_session_context(c->session) - mka_session_length(c->session)))
        status = no_room(c, count);
    if (status == 0) {
        mka_cli_catch_interrupt();
        mka_cli_reused reused;
        status = mka_cli_reuse(cli, c->engine, c->session, ids, count, &reused);
        for (size_t i = 0; i < reused.done; i++) mka_sampler_accept(c->sampler, ids[i]);
        if (status == 0)
            status = mka_cli_answer_run(cli, &c->answer, c->model, c->session, c->sampler, ids + reused.done, count - reused.done,
                                        cli->options.tokens);
        c->answer.evaluated += reused.evaluated;
        c->answer.prefill_seconds += reused.seconds;
        int unread =
            status != 0 || (size_t)mka_session_length(c->session) != (size_t)c->base + c->held_count + count + c->answer.decoded;
        if (status == 0) show_answer(cli, c);
        /* Interrupted while it was read, or failed: what the session holds of this turn is taken back. */
        if (unread) {
            int cut_status = cut(cli, c, c->held_count);
            status = status != 0 ? status : cut_status;
            if (status == 0) drop_messages(c, c->count - 1);
        } else {
            status = remember(c, text, length, ids, count);
        }
    }
    free(ids);
    free(text);
    return status;
}

/* The conversation of --load-session. */
static int resume(mka_cli *cli, chat *c) {
    mka_cli_kept note;
    int status = mka_cli_resume_load(cli, c->session, &note);
    if (status == 0 && note.count == 0)
        status = mka_cli_error("%s holds no conversation; 'mka generate' can go on from it", cli->options.load_session);
    for (int i = 0; i < note.count && status == 0; i++)
        status = add_message(c, note.messages[i].role, note.messages[i].content, strlen(note.messages[i].content));
    if (status == 0 && note.past != NULL) {
        c->past = malloc(note.past_length + 1);
        if (c->past == NULL) status = mka_cli_error("out of memory");
        if (c->past != NULL) memcpy(c->past, note.past, note.past_length);
        c->past_length = note.past_length;
    }
    if (status == 0) {
        c->pending = note.pending;
        c->base = note.base;
        c->held_count = (size_t)(mka_session_length(c->session) - c->base);
        memcpy(c->held, mka_session_tokens(c->session) + c->base, c->held_count * sizeof *c->held);
        for (size_t i = 0; i < c->held_count; i++) mka_sampler_accept(c->sampler, c->held[i]);
    }
    mka_cli_kept_free(&note);
    return status;
}

static int save(mka_cli *cli, const chat *c) {
    mka_cli_kept note = {.base = c->base, .pending = c->pending, .messages = c->messages, .count = c->count};
    if (c->past != NULL) note.past = c->past, note.past_length = c->past_length;
    return mka_cli_resume_save(c->model, c->session, cli->options.save_session, &note);
}

/* One line of the user, without its end. Returns its length, or -1 at the end of the input or after Ctrl-C. */
static ssize_t read_line(chat *c, char **line, size_t *room) {
    if (c->terminal) {
        fputs(c->colors ? "\033[1;32m> " : "> ", stderr);
        fflush(stderr);
        mka_cli_colored(c->colors);
    }
    mka_cli_catch_interrupt();
    ssize_t length = getline(line, room, stdin);
    if (c->terminal && c->colors) fputs("\033[0m", stderr);
    mka_cli_colored(0);
    if (length < 0 && c->terminal) fputc('\n', stderr);
    while (length > 0 && ((*line)[length - 1] == '\n' || (*line)[length - 1] == '\r')) (*line)[--length] = '\0';
    return length;
}

/* Commands of the conversation. Returns 1 when line was one, -1 to leave, 0 when it is a message. */
static int command(mka_cli *cli, chat *c, const char *line) {
    if (line[0] != '/') return 0;
    if (strcmp(line, "/exit") == 0 || strcmp(line, "/quit") == 0) return -1;
    if (strcmp(line, "/reset") == 0) {
        if (reset(cli, c) != 0) return -1;
        mka_cli_note("a new conversation");
        return 1;
    }
    if (strcmp(line, "/help") == 0) {
        fputs("/reset  forget the conversation\n/exit   leave (so do the end of the input and Ctrl-C at the prompt)\n"
              "/help   this list\nCtrl-C  end an answer\nAnything else is a message, one a line.\n",
              stderr);
        return 1;
    }
    /* A path or a fraction is a message; a lone unknown word after the slash is a slip. */
    if (strpbrk(line + 1, " /\t") != NULL || line[1] == '\0') return 0;
    static const char *const known[] = {"/exit", "/reset", "/help"};
    const char *nearest = mka_cli_nearest(line, known, 3);
    if (nearest == NULL) return 0;
    mka_cli_note("unknown command %s (did you mean %s?)", line, nearest);
    return 1;
}

/* Reads and answers until the input ends. */
static int talk(mka_cli *cli, chat *c) {
    char *line = NULL;
    size_t room = 0;
    int status = 0;
    while (status == 0 && cli->write_error == 0) {
        ssize_t length = read_line(c, &line, &room);
        if (length < 0) {
            if (mka_cli_interrupted()) {
                status = 130;
            } else if (ferror(stdin)) {
                status = mka_cli_error("cannot read standard input: %s", strerror(errno));
            }
            break;
        }
        if (length == 0) continue;
        if (strlen(line) != (size_t)length) {
            c->failed = mka_cli_error("a message cannot hold NUL bytes");
            continue;
        }
        int done = command(cli, c, line);
        if (done < 0) break;
        if (done > 0) continue;
        status = add_message(c, "user", line, (size_t)length);
        if (status == 0 && answer_turn(cli, c) != 0) {
            c->failed = 1;
            if (c->count > 0) drop_messages(c, c->count - 1);
        }
    }
    free(line);
    return status != 0 ? status : c->failed;
}

static int open_chat(mka_cli *cli, chat *c) {
    mka_error error = {0};
    mka_model_info info;
    int loaded, status = mka_cli_resume_peek(cli, "chat", &loaded);
    if (status == 0) status = mka_cli_open_engine(cli, &c->engine);
    if (status == 0) status = mka_cli_open_model(cli, "chat", c->engine, 0, &c->model);
    if (status != 0) return status;
    mka_model_get_info(c->model, &info);
    int context = cli->options.context > 0 ? cli->options.context : DEFAULT_CONTEXT;
    if (cli->options.context == 0 && loaded > 0) context += loaded;
    if (cli->options.context == 0 && info.context > 0 && info.context < context)
        context = info.context > loaded ? info.context : loaded;
    if (mka_sampler_create(&cli->options.sampler, info.vocabulary, &c->sampler, &error) != MKA_OK)
        return mka_cli_failure(&error, 1);
    status = mka_cli_open_session(cli, c->model, context, &c->session);
    if (status == 0) status = mka_cli_answer_prepare(&c->answer, c->model, (size_t)context + 1);
    if (status != 0) return status;
    c->held = malloc(((size_t)context + 1) * sizeof *c->held);
    if (c->held == NULL) return mka_cli_error("out of memory");
    /* A model without a template is told at once, not after the first message. */
    char *text = NULL;
    size_t length;
    unsigned flags;
    mka_message probe = {"user", "Hello"};
    status = mka_cli_format_chat(cli, c->model, &probe, 1, &text, &length, &flags);
    free(text);
    return status;
}

int mka_cli_chat(mka_cli *cli) {
    chat c;
    memset(&c, 0, sizeof c);
    if (cli->options.tokens == MKA_CLI_UNSET) cli->options.tokens = DEFAULT_TOKENS;
    if (cli->options.tokens == 0) return mka_cli_usage("chat", "-n 0 leaves no room for an answer");
    if (cli->options.model == NULL) return mka_cli_usage("chat", "which model? Give one with -m MODEL");
    int status = open_chat(cli, &c);
    if (status == 0) {
        c.terminal = isatty(STDIN_FILENO) && isatty(STDERR_FILENO) && !cli->options.json;
        c.colors = mka_cli_colors(cli, STDERR_FILENO);
        if (c.terminal) fputs("One message a line. /reset starts over, /exit leaves, Ctrl-C ends an answer.\n", stderr);
        if (cli->options.remembered > 0) status = mka_cli_resume_remember(cli, c.model, c.session);
        if (cli->options.remembered > 0) c.base = mka_session_length(c.session);
        if (status == 0) status = cli->options.load_session != NULL ? resume(cli, &c) : reset(cli, &c);
        if (status == 0) {
            status = talk(cli, &c);
            int saved = save(cli, &c);
            if (status == 0) status = saved;
        }
    }
    drop_messages(&c, 0);
    free(c.messages);
    free(c.past);
    free(c.held);
    mka_cli_answer_free(&c.answer);
    mka_sampler_destroy(c.sampler);
    mka_session_destroy(c.session);
    mka_model_destroy(c.model);
    mka_engine_destroy(c.engine);
    return status;
}
