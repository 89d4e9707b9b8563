/* main - the table of commands, their help pages, and what holds for all of them: standard streams, signals, exit status. */
#include "commands.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct command {
    const char *name;
    int bit;
    int (*run)(mka_cli *cli);
    const char *arguments; /* for the usage line */
    const char *summary;
    int most_arguments; /* that are not flags; -1: any number */
    const char *about;  /* paragraphs and examples of the help page */
} command;

static const command commands[] = {
    {"generate", MKA_CLI_GENERATE, mka_cli_generate, "-m MODEL (-p TEXT | -f FILE)", "complete a prompt", 0,
     "Completes the prompt as it is and streams the answer to standard output. The context is as large as prompt and answer\n"
     "need unless -c says otherwise. Ctrl-C ends the answer and keeps what is there (exit status 130); a second one kills.\n"
     "A prompt of 1024 tokens or more is kept on disk, and one that begins like it is not evaluated again up to there.\n"
     "--save-session keeps the session in a file, --load-session goes on from it, with the text of -p or -f or without any.\n"
     "--json prints one object: text, ids, prompt_tokens, new_tokens, prefill_tok_s, decode_tok_s, stop (end, length, context,\n"
     "interrupted), memory {mode, tokens_read, unread_mass_estimate, lost_mass_bound, bytes_by_tier,\n"
     "numa {mode, refused, misplaced_bytes, nodes [{node, threads, planned_bytes, found_bytes, weights_planned_bytes,\n"
     "weights_found_bytes}]}}, peak_bytes.\n\n"
     "Examples:\n"
     "  mka generate -m model.gguf -p 'The capital of France is' -n 16 --temp 0\n"
     "  mka generate -m model.gguf --chat -p 'Name three rivers.'\n"
     "  cat chapter.txt | mka generate -m model.gguf -f - -n 64 --json\n"
     "  mka generate -m model.gguf -f book.txt -n 64 --save-session book.mka\n"
     "  mka generate -m model.gguf --load-session book.mka -n 64\n"},
    {"chat", MKA_CLI_CHAT, mka_cli_chat, "-m MODEL", "talk with a model", 0,
     "Reads one message a line from standard input and answers it. The conversation stays in the session's cache, so that a\n"
     "turn costs only its own tokens. /reset forgets the conversation, /exit or the end of the input leaves, /help helps.\n"
     "Ctrl-C ends an answer; at the prompt it leaves. --json prints one object an answer, as generate does.\n"
     "--remember puts a saved session before the conversation: the model recalls from its text, and /reset keeps it. Given "
     "again,\n"
     "each file's tokens follow those of the one before, as 'mka memory merge' puts them.\n"
     "--save-session keeps the conversation in a file when it ends, --load-session takes it up again.\n\n"
     "Examples:\n"
     "  mka chat -m model.gguf --system 'You answer in one sentence.'\n"
     "  printf 'Hello!\\nAnd who are you?\\n' | mka chat -m model.gguf --temp 0 --json\n"},
    {"info", MKA_CLI_INFO, mka_cli_info, "[MODEL]", "what this machine and a model are", 1,
     "Shows the machine as the engine sees it, what --numa makes of its nodes and, with a model, its sizes and what a token of\n"
     "its cache takes.\n"
     "-v lists the metadata and the tensors of the model's file.\n\n"
     "Examples:\n"
     "  mka info\n"
     "  mka info model.gguf -v\n"
     "  mka info --json model.gguf\n"},
    {"check", MKA_CLI_CHECK, mka_cli_check, "FILE... | -m MODEL FILE...", "compare this build with known answers", -1,
     "FILE is a golden file (safetensors): attention alone, a layer of any variant, or a small language model, which is run in\n"
     "one pass, in uneven chunks and token by token; the worst difference counts. Allowed: 2e-5 + 2e-5 |wanted|.\n"
     "With -m, FILE is a JSON file of expected token ids, logits, greedy text and long-text likelihood of that model. Allowed:\n"
     "the error that the file records for its peer (all logits recorded: twice that, at least 0.003); with --exact 0.02 "
     "(0.003).\n"
     "max_rel_err is relative to the largest wanted value of a tensor. -v shows every tensor or case.\n\n"
     "Examples:\n"
     "  mka check golden/*.safetensors\n"
     "  mka check --cpu scalar --json golden/*.safetensors\n"
     "  mka check -m smollm2.gguf smollm2.json --exact -v\n"},
    {"tokenize", MKA_CLI_TOKENIZE, mka_cli_tokenize_command, "-m MODEL (-p TEXT | -f FILE)", "show the tokens of a text", 0,
     "Special tokens that the text names are parsed, and BOS is added when the model says so. A GGUF that holds only a\n"
     "vocabulary is enough, whatever its architecture.\n\n"
     "Examples:\n"
     "  mka tokenize -m model.gguf -p 'Hello, world!'\n"
     "  mka tokenize -m vocab.gguf -f text.txt --json --no-bos --no-parse-special\n"},
    {"eval ppl", MKA_CLI_EVAL_PPL, mka_cli_eval_ppl, "-m MODEL -f TEXT", "how well a model predicts a text", 0,
     "Perplexity. The text is cut into contexts of -c tokens, each scored on its own; the mean is over all tokens but the\n"
     "first of each. --json fields: file, tokens, scored, contexts, ppl, nll (nats a token), stderr (standard error of nll),\n"
     "memory {mode, recall, tokens_read, long_tokens (a head and query), unread_mass, bytes_by_tier (a token)}.\n\n"
     "Examples:\n"
     "  mka eval ppl -m model.gguf -f book.txt -c 6144 --max-tokens 6144\n"
     "  mka eval ppl -m model.gguf -f book.txt -c 32768 --max-tokens 32768 --memory tiered --recall p=0.95\n"},
    {"eval recall", MKA_CLI_EVAL_RECALL, mka_cli_eval_recall, "-m MODEL -f TEXT",
     "what tiered memory reads, and how far its predictions are from dense", 0,
     "Two sessions, tiered and dense, hold the same -c tokens of the text and decode the last --max-tokens of them one by one.\n"
     "Activations are float32 (--rounded: as in other commands), so that only memory differs.\n"
     "After every token their predictions are compared: KL is KL(dense || tiered) in nats over the whole vocabulary.\n"
     "With --layers or --json every key/value head is measured too: at most some 500 of the decoded tokens are answered a "
     "second\n"
     "time by reading everything that the same memory holds, which gives the exact share of the softmax that was not read\n"
     "(lost_mass) and the error of the output (output_rel_err, relative, mean over queries). lost_mass_bound is null where the\n"
     "contract promises none.\n"
     "--json fields: layer, head, kv_len, unread_mass, lost_mass, lost_mass_bound, output_rel_err, tokens_read, tokens_scored,\n"
     "long_tokens, bytes_read, bytes_dense, queries, compared; last line over all: file, tokens, decoded, samples, recall, "
     "prefill, "
     "exact,\n"
     "window, kl, kl_max, top1_agree, ppl, ppl_dense, unread_mass, lost_mass, lost_mass_bound, output_rel_err, tokens_read,\n"
     "long_tokens, bytes_by_tier, bytes_read, bytes_dense, tok_s, tok_s_dense. Bytes are those a decoded token reads.\n\n"
     "Examples:\n"
     "  mka eval recall -m model.gguf -f book.txt -c 8192 --max-tokens 2000\n"
     "  mka eval recall -m model.gguf -f book.txt -c 16384 --recall p=0.95 --layers\n"},
    {"eval needle", MKA_CLI_EVAL_NEEDLE, mka_cli_eval_needle, "-m MODEL -f TEXT", "find a pass key in a long text", 0,
     "Hides five digits in the text at several depths of prompts of several lengths and asks for them. Without --memory every\n"
     "prompt is answered by a tiered and by a dense session. The score is the share of answers that hold the key; logprob is "
     "the\n"
     "mean log-probability of the key's tokens.\n"
     "--json prints one object a cell (task, memory, length, depth, samples, score, score_dense, logprob, logprob_dense) and "
     "one\n"
     "over all, whose length and depth are null and which adds memory_used.\n\n"
     "Examples:\n"
     "  mka eval needle -m model.gguf -f book.txt -c 8192 --samples 5 --svg needle.svg\n"
     "  mka eval needle -m model.gguf -f book.txt --lengths 2000,6000 --depths 10,50,90 --recall tokens=64 --json\n"},
    {"eval ruler", MKA_CLI_EVAL_RULER, mka_cli_eval_ruler, "-m MODEL -f TEXT [TASK...]", "tasks of many kinds in long prompts",
     -1,
     "Tasks (default: all): single, multi-key, multi-value, multi-query (numbers under keys, hidden in the text), variables (a "
     "chain\n"
     "of assignments), common-words, frequent-words (which stand most often in a list), key-value (one entry of a JSON object),\n"
     "two-hop (one fact leads to the other). Without --memory every prompt is answered by a tiered and by a dense session. The\n"
     "score of an answer is the share of the wanted words that it holds.\n"
     "--json prints one object a task and length (task, memory, length, samples, score, score_dense) and one over all (task and\n"
     "length null), which adds memory_used. -v shows every wrong answer.\n\n"
     "Examples:\n"
     "  mka eval ruler -m model.gguf -f book.txt -c 8192\n"
     "  mka eval ruler single variables -m model.gguf -f book.txt --lengths 2048,8192 --samples 20 --json\n"},
    {"eval qa", MKA_CLI_EVAL_QA, mka_cli_eval_qa, "FILE.jsonl -m MODEL", "questions about long texts, from a file", 1,
     "FILE has one JSON object a line, as LongBench has: input (the question), context, answers (a list). A prompt that is "
     "longer\n"
     "than the context, less the answer, loses its middle. The answer ends with its first line. The score is LongBench's token\n"
     "F1: lower case, without punctuation and articles, the best over the answers. Without --memory every question is answered "
     "by\n"
     "a tiered and by a dense session.\n"
     "--json prints one object a question (line, prompt_tokens, cut_tokens, f1, f1_dense, answer, answer_dense) and one over "
     "all\n"
     "(file, task, memory, samples, score, score_dense, memory_used).\n\n"
     "Examples:\n"
     "  mka eval qa hotpotqa.jsonl -m model.gguf -c 8192 --samples 50\n"},
    {"memory list", MKA_CLI_MEMORY_LIST, mka_cli_memory_list, "DIR|FILE...", "what saved sessions and memories hold", -1,
     "Shows saved sessions (of generate and chat) and memories (of the library), one a line: tokens, layers, cache types, kind "
     "of\n"
     "memory, size, when it was saved, and the fingerprint of its model; then the first words of its text, where it has them. Of "
     "a\n"
     "folder its files are shown, others passed over. --json fields: file, kind (session, memory), tokens, layers, key_type,\n"
     "value_type, memory, window, longterm_key_type, longterm_value_type, bytes, saved, model, words.\n\n"
     "Examples:\n"
     "  mka memory list ~/books\n"
     "  mka memory list one.mka two.mka --json\n"},
    {"memory merge", MKA_CLI_MEMORY_MERGE, mka_cli_memory_merge, "-m MODEL OUT FILE FILE...",
     "one long-term memory of several saved sessions", -1,
     "Writes OUT with the tokens of the sessions one behind the other, for --remember and --load-session. The tokens of each "
     "file\n"
     "take the positions that follow those of the file before: their keys are turned on to there, and coded as the first file's\n"
     "are; a BOS that a later file begins with is left out. The model is not run: the tokens of a file have seen each other "
     "alone, and what is evaluated behind OUT sees them "
     "all.\n"
     "Cache types, window and kind of memory are those of the first file. OUT may be one of the files; it is replaced as a "
     "whole.\n"
     "--json fields: file, tokens, parts [{file, first, tokens}].\n\n"
     "Examples:\n"
     "  mka memory merge -m model.gguf all.mka monday.mka tuesday.mka\n"
     "  mka chat -m model.gguf --remember all.mka\n"},
    {"bench limits", MKA_CLI_BENCH_LIMITS, mka_cli_bench_limits, "", "how fast this machine reads, copies and computes", 0,
     "Reads and copies half of each cache, and a buffer much larger than any on every NUMA node, with one thread and with all;\n"
     "computes multiply-adds of every kind that the kernels use. --json prints one object for each cache level and node: level,\n"
     "node, bytes, read_gbps, copy_gbps, f32_gflops, unit_gflops (medians, each as {1, all}), spread, threads, repeats, cpu.\n"
     "Copied bytes count twice, once read and once written. With --device: one row, of the device's memory (device, bytes,\n"
     "read_gbps, copy_gbps).\n\n"
     "Examples:\n"
     "  mka bench limits\n"
     "  mka bench limits -t 1,2,4 -r 11 --size 1073741824 --json\n"},
    {"bench attention", MKA_CLI_BENCH_ATTENTION, mka_cli_bench_attention, "", "attention alone, against the machine's limit", 0,
     "One row for every combination of the lists; rows take turns. Around each sample the machine's own limits are sampled: "
     "reading\n"
     "a buffer as large as what the row reads, and the unit that its kernels compute with; limit_fraction is the time that the\n"
     "nearer limit would take over the time it took (median over the samples). Short calls count as the best of three runs, as\n"
     "the limits do. Bytes count every cached byte once.\n"
     "On a device the limit is its own memory, and a second line (--json: device) has what a call took there by its clock;\n"
     "where long-term rows stay in memory, a third one those that it waited for (fetched), and those that were sent ahead\n"
     "while other commands ran (ahead): {tokens, bytes, ms, gbps, host_ms (to find them)}.\n"
     "With --ram and --spill a tiered row's long-term rows lie in a file but for what --ram has room for; its calls then have\n"
     "64 queries in turns, because one alone would find its rows in memory. memory {spill_bytes (a call), resident_bytes}.\n"
     "mka reads three caches, one a level; fastmka one, as gqa does. --json fields: phase, variant, heads, kv_heads, head_dim,\n"
     "q_len, kv_len, kv_type, memory, ms {min, median, max}, bytes, flops, gbps, gflops, limit (GB/s or GFLOP/s), limit_kind,\n"
     "limit_fraction, read_gbps, unit, unit_gflops, threads, repeats, cpu.\n\n"
     "Examples:\n"
     "  mka bench attention --kv-len 8192,131072 --kv-type f16,bf16,q8\n"
     "  mka bench attention --memory tiered --kv concentrated --kv-len 1048576 --ram 1G --spill /var/tmp\n"
     "  mka bench attention --phase prefill --q-len 512 --kv-len 4096,32768 -t 1,2 --json\n"},
    {"bench model", MKA_CLI_BENCH_MODEL, mka_cli_bench_model, "(-m MODEL | --shape NAME[:TYPE])",
     "tokens a second of a whole model", 0,
     "Decodes and reads prompts behind contexts of several depths; rows take turns. --shape runs random weights in the shape of "
     "a\n"
     "known model (tiny, smollm2-135m, qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-7b, llama-3.2-1b, llama-3.1-8b), which is as fast as\n"
     "the real one; --variant gqa,fastmka shows what routing costs. A decoded token's limit is that of reading as many bytes as "
     "it needs (at most 1 GiB of buffer).\n"
     "--json fields: model, phase, depth, tokens, tok_s {min, median, max}, kv_type, memory {mode}, fill, attention, "
     "weight_type,\n"
     "bytes, flops, gbps, gflops, threads, repeats, cpu; decode also limit, limit_kind, limit_fraction, read_gbps;\n"
     "on a device also device: what a call (all its tokens) took there by its clock.\n\n"
     "Examples:\n"
     "  mka bench model -m model.gguf --depth 0,4096 -ctk q8 -ctv q8\n"
     "  mka bench model --shape qwen2.5-0.5b:q8_0 --depth 0,4096,32768 --phase decode --json\n"},
};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

static const command *find_command(const char *name) {
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    }
    return NULL;
}

/* Commands of two words: "bench model" is looked up by its second word once the first is known. */
static int is_group(const char *word) {
    size_t length = strlen(word);
    for (int i = 0; i < COMMANDS; i++)
        if (strncmp(commands[i].name, word, length) == 0 && commands[i].name[length] == ' ') return 1;
    return 0;
}

static const command *find_task(const char *group, const char *task) {
    char name[64];
    snprintf(name, sizeof name, "%.20s %.40s", group, task);
    return find_command(name);
}

/* One line a task. */
static void group_overview(FILE *out, const char *group) {
    int bench = strcmp(group, "bench") == 0;
    size_t length = strlen(group);
    fprintf(out, "Usage: mka %s TASK [FLAGS]\n\nTasks:\n", group);
    for (int i = 0; i < COMMANDS; i++)
        if (strncmp(commands[i].name, group, length) == 0 && commands[i].name[length] == ' ')
            fprintf(out, "  %-10s %s\n", commands[i].name + length + 1, commands[i].summary);
    fprintf(out, "\n  mka %s TASK --help   flags and examples of a task; each takes --json\n\nExamples:\n", group);
    fputs(bench ? "  mka bench limits\n  mka bench model -m model.gguf --depth 0,4096\n"
          : strcmp(group, "memory") == 0
              ? "  mka memory list ~/books\n  mka memory merge -m model.gguf all.mka one.mka two.mka\n"
              : "  mka eval ppl -m model.gguf -f book.txt\n  mka eval recall -m model.gguf -f book.txt -c 8192\n",
          out);
}

static int unknown_task(const char *group, const char *task) {
    const char *names[COMMANDS];
    char list[200] = "";
    int count = 0;
    size_t length = strlen(group);
    for (int i = 0; i < COMMANDS; i++) {
        if (strncmp(commands[i].name, group, length) != 0 || commands[i].name[length] != ' ') continue;
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", count > 0 ? ", " : "", commands[i].name + length + 1);
        names[count++] = commands[i].name + length + 1;
    }
    if (task == NULL || task[0] == '-') return mka_cli_usage(group, "which task? One of %s, before any flag", list);
    const char *nearest = mka_cli_nearest(task, names, count);
    if (nearest != NULL) return mka_cli_usage(group, "unknown task '%s' (did you mean %s?)", task, nearest);
    return mka_cli_usage(group, "unknown task '%s'; one of %s", task, list);
}

static void overview(FILE *out) {
    fputs("mka - language models with long contexts, on CPUs\n\nUsage: mka COMMAND [FLAGS]\n\nCommands:\n", out);
    for (int i = 0; i < COMMANDS; i++) fprintf(out, "  %-16s %s\n", commands[i].name, commands[i].summary);
    fputs("\n  mka COMMAND --help   flags and examples of a command\n  mka --version        the version\n\n"
          "Environment: MKA_CPU (kernel level), MKA_THREADS, MKA_LOG (error, warn, info or debug).\n"
          "Exit status: 0 done, 1 the work failed or a check did not hold, 2 wrong usage, 130 interrupted.\n\n"
          "Example: mka generate -m model.gguf -p 'Once upon a time' -n 64\n",
          out);
}

static void help_page(const command *c) {
    printf("Usage: mka %s %s [FLAGS]\n\n%s\nFlags:\n", c->name, c->arguments, c->about);
    mka_cli_options_help(stdout, c->bit);
}

static int unknown_command(const char *name) {
    const char *names[COMMANDS];
    for (int i = 0; i < COMMANDS; i++) names[i] = commands[i].name;
    const char *nearest = mka_cli_nearest(name, names, COMMANDS);
    if (nearest != NULL) return mka_cli_usage(NULL, "unknown command '%s' (did you mean %s?)", name, nearest);
    return mka_cli_usage(NULL, "unknown command '%s'", name);
}

static int run_command(mka_cli *cli, const command *c, int argc, char **argv) {
    const char **arguments = calloc((size_t)argc + 1, sizeof *arguments);
    if (arguments == NULL) return mka_cli_error("out of memory");
    int status = mka_cli_options_parse(&cli->options, c->name, c->bit, argc, argv, arguments);
    if (status == 0 && cli->options.help) {
        help_page(c);
    } else if (status == 0 && c->most_arguments >= 0 && cli->options.argument_count > c->most_arguments) {
        status = mka_cli_usage(c->name, "unexpected argument '%s'%s", arguments[c->most_arguments],
                               c->bit & (MKA_CLI_GENERATE | MKA_CLI_TOKENIZE) ? " (a prompt is given with -p)" : "");
    } else if (status == 0 && (status = mka_cli_log_level(cli)) == 0) {
        status = c->run(cli);
    }
    free(arguments);
    return status;
}

static int dispatch(mka_cli *cli, int argc, char **argv) {
    if (argc < 2) {
        overview(stderr);
        return 2;
    }
    const char *word = argv[1];
    if (strcmp(word, "--version") == 0 || strcmp(word, "version") == 0) {
        printf("mka %s\n", mka_version());
        return 0;
    }
    int help = strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
    if (help && argc == 2) {
        overview(stdout);
        return 0;
    }
    const char *name = help ? argv[2] : word;
    int words = 2 + help; /* of argv that name the command */
    const command *c = find_command(name);
    if (c == NULL && is_group(name)) {
        const char *task = words < argc ? argv[words] : NULL;
        if (help ? task == NULL : task != NULL && (strcmp(task, "--help") == 0 || strcmp(task, "-h") == 0)) {
            group_overview(stdout, name);
            return 0;
        }
        if (task != NULL) c = find_task(name, task);
        if (c == NULL) return unknown_task(name, task);
        words++;
    }
    if (c == NULL && !help && word[0] == '-') return mka_cli_usage(NULL, "the command comes first, before %s", word);
    if (c == NULL) return unknown_command(help ? argv[2] : word);
    if (help) {
        help_page(c);
        return 0;
    }
    return run_command(cli, c, argc - words, argv + words);
}

/* A standard stream that the caller closed must not become the descriptor of a model file: results written to it would go
 * there. /dev/null opened the wrong way round makes them fail instead, as they would on a closed stream. */
static void guard_streams(void) {
    for (int descriptor = 0; descriptor <= 2; descriptor++) {
        if (fcntl(descriptor, F_GETFD) >= 0 || errno != EBADF) continue;
        if (open("/dev/null", descriptor == 0 ? O_WRONLY : O_RDONLY) < 0) _exit(1);
    }
}

int main(int argc, char **argv) {
    mka_cli cli;
    guard_streams();
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of the write, which says so and exits with 1 */
    memset(&cli, 0, sizeof cli);
    mka_cli_options_defaults(&cli.options);
    int status = dispatch(&cli, argc, argv);
    return mka_cli_finish(&cli, status);
}
