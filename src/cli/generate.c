/* generate - completes one prompt, or answers it as one user turn. */
#include "answer.h"
#include "commands.h"
#include "resume.h"
#include "reuse.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_TOKENS = 256 };

typedef struct work {
    mka_engine *engine;
    mka_model *model;
    mka_session *session;
    mka_sampler *sampler;
    mka_cli_answer answer;
    char *text;
    size_t length, count;
    unsigned flags;
    int *ids;
    int context, loaded; /* loaded: tokens that the session comes with */
} work;

static int wrap_as_turn(mka_cli *cli, work *w) {
    mka_message messages[2];
    int count = 0;
    char *wrapped = NULL;
    if (strlen(w->text) != w->length) return mka_cli_error("a chat message cannot hold NUL bytes");
    if (cli->options.system != NULL) messages[count++] = (mka_message){"system", cli->options.system};
    messages[count++] = (mka_message){"user", w->text};
    int status = mka_cli_format_chat(cli, w->model, messages, count, &wrapped, &w->length, &w->flags);
    if (status != 0) return status;
    free(w->text);
    w->text = wrapped;
    return 0;
}

static int prompt_ids(mka_cli *cli, work *w) {
    w->flags = MKA_TOKENIZE_BOS | MKA_TOKENIZE_SPECIAL;
    if (cli->options.chat && w->length > 0) {
        int status = wrap_as_turn(cli, w);
        if (status != 0) return status;
    }
    if (cli->options.no_bos || w->loaded > 0) w->flags &= ~MKA_TOKENIZE_BOS;
    if (cli->options.no_parse_special) w->flags &= ~MKA_TOKENIZE_SPECIAL;
    int status = mka_cli_tokenize(w->model, w->text, w->length, w->flags, &w->ids, &w->count);
    if (status != 0) return status;
    if (w->count == 0 && w->loaded == 0)
        return mka_cli_usage("generate", "the prompt is empty, and this model puts no BOS token before it");
    return 0;
}

/* The context that prompt and answer need, in steps of 256, at most what the model was made for. */
static int choose_context(mka_cli *cli, work *w) {
    mka_model_info info;
    mka_model_get_info(w->model, &info);
    long long most = info.context > 0 ? info.context : INT_MAX, wanted = cli->options.tokens;
    if (cli->options.context > 0) {
        w->context = cli->options.context;
        if (info.context > 0 && w->context > info.context && cli->log_level >= MKA_LOG_WARN) {
            mka_cli_note("warn: -c %d is more than the %d tokens this model was made for; expect nonsense beyond", w->context,
                         info.context);
        }
    } else {
        long long needed = wanted < 0 ? most : ((long long)w->loaded + 1 + (long long)w->count + wanted + 255) / 256 * 256;
        w->context = (int)(needed < most ? needed : most);
    }
    if (w->count + (size_t)w->loaded > (size_t)w->context) {
        return mka_cli_error("%s %zu tokens, but the context has room for %d%s",
                             w->loaded > 0 ? "session and prompt have" : "the prompt has", w->count + (size_t)w->loaded,
                             w->context,
                             cli->options.context > 0 ? " (-c makes it larger)" : ", all that this model was made for");
    }
    return 0;
}

/* The session of --load-session or --remember, and its pending token before the ids of the prompt. */
static int resume(mka_cli *cli, work *w) {
    mka_cli_kept note = {.pending = -1};
    int status = cli->options.remembered > 0 ? mka_cli_resume_remember(cli, w->model, w->session)
                                             : mka_cli_resume_load(cli, w->session, &note);
    int pending = note.pending;
    mka_cli_kept_free(&note);
    if (status != 0) return status;
    const int *held = mka_session_tokens(w->session);
    for (int i = 0; i < mka_session_length(w->session); i++) mka_sampler_accept(w->sampler, held[i]);
    if (pending < 0 && w->count == 0)
        return mka_cli_usage("generate", "this session has nothing to go on from; give text with -p or -f");
    if (pending < 0) return 0;
    int *joined = malloc((w->count + 1) * sizeof *joined);
    if (joined == NULL) return mka_cli_error("out of memory");
    joined[0] = pending;
    memcpy(joined + 1, w->ids, w->count * sizeof *joined);
    free(w->ids);
    w->ids = joined;
    w->count++;
    return 0;
}

static int prepare(mka_cli *cli, work *w) {
    mka_error error = {0};
    mka_model_info info;
    mka_model_get_info(w->model, &info);
    if (mka_sampler_create(&cli->options.sampler, info.vocabulary, &w->sampler, &error) != MKA_OK) {
        return mka_cli_failure(&error, 1);
    }
    int status = choose_context(cli, w);
    if (status == 0) status = mka_cli_open_session(cli, w->model, w->context, &w->session);
    if (status == 0 && w->loaded > 0) status = resume(cli, w);
    /* One token beyond a full context can still be sampled from the last logits. */
    size_t most = status == 0 ? (size_t)mka_session_context(w->session) - (size_t)w->loaded + 1 : 0;
    return status != 0 ? status : mka_cli_answer_prepare(&w->answer, w->model, most);
}

static int report(mka_cli *cli, work *w) {
    int interrupted = strcmp(w->answer.stop, "interrupted") == 0;
    if (cli->options.json) {
        mka_cli_json(cli, mka_cli_answer_json(&w->answer, w->session));
    } else {
        mka_cli_print(cli, "\n");
        mka_cli_flush(cli);
    }
    if (strcmp(w->answer.stop, "context") == 0) {
        mka_cli_note("the answer ended because the context of %d tokens is full%s", w->context,
                     cli->options.context > 0 ? " (-c makes it larger)" : "");
    }
    if (mka_cli_wants_statistics(cli)) mka_cli_answer_statistics(&w->answer, w->session);
    /* A prompt that was not read to its end is no session to go on from. */
    if (!interrupted || w->answer.count > 0) {
        int unread = w->answer.count > w->answer.decoded;
        mka_cli_kept note = {.pending = unread ? w->answer.ids[w->answer.count - 1] : -1};
        int status = mka_cli_resume_save(w->model, w->session, cli->options.save_session, &note);
        if (status != 0) return status;
    }
    return interrupted ? 130 : 0;
}

int mka_cli_generate(mka_cli *cli) {
    work w;
    memset(&w, 0, sizeof w);
    if (cli->options.tokens == MKA_CLI_UNSET) cli->options.tokens = DEFAULT_TOKENS;
    if (!cli->options.chat && (cli->options.system != NULL || cli->options.chat_template != NULL)) {
        return mka_cli_usage("generate", "--system and --template need --chat");
    }
    if (cli->options.model == NULL) return mka_cli_usage("generate", "which model? Give one with -m MODEL");
    int status = mka_cli_read_prompt(cli, "generate", &w.text, &w.length);
    if (status == 0) status = mka_cli_resume_peek(cli, "generate", &w.loaded);
    if (status == 0) status = mka_cli_open_engine(cli, &w.engine);
    if (status == 0) status = mka_cli_open_model(cli, "generate", w.engine, 0, &w.model);
    if (status == 0) status = prompt_ids(cli, &w);
    if (status == 0) status = prepare(cli, &w);
    if (status == 0) {
        mka_cli_catch_interrupt();
        mka_cli_reused reused;
        status = mka_cli_reuse(cli, w.engine, w.session, w.ids, w.count, &reused);
        for (size_t i = 0; i < reused.done; i++) mka_sampler_accept(w.sampler, w.ids[i]);
        if (status == 0)
            status = mka_cli_answer_run(cli, &w.answer, w.model, w.session, w.sampler, w.ids + reused.done, w.count - reused.done,
                                        cli->options.tokens);
        w.answer.evaluated += reused.evaluated;
        w.answer.prefill_seconds += reused.seconds;
        if (status == 0) status = report(cli, &w);
    }
    mka_cli_answer_free(&w.answer);
    mka_sampler_destroy(w.sampler);
    mka_session_destroy(w.session);
    mka_model_destroy(w.model);
    mka_engine_destroy(w.engine);
    free(w.ids);
    free(w.text);
    return status;
}
