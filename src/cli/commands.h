/* commands - what main's table points to: one function a command, one file a function. */
#ifndef MKA_CLI_COMMANDS_H
#define MKA_CLI_COMMANDS_H

#include "output.h"

/* Each runs with cli->options parsed and returns the exit status: 0 done, 1 failed or did not hold, 2 wrong usage,
 * 130 interrupted. */
int mka_cli_generate(mka_cli *cli);
int mka_cli_chat(mka_cli *cli);
int mka_cli_info(mka_cli *cli);
int mka_cli_check(mka_cli *cli);
int mka_cli_tokenize_command(mka_cli *cli);
int mka_cli_eval_ppl(mka_cli *cli);
int mka_cli_eval_recall(mka_cli *cli);
int mka_cli_eval_needle(mka_cli *cli);
int mka_cli_eval_ruler(mka_cli *cli);
int mka_cli_eval_qa(mka_cli *cli);
int mka_cli_memory_list(mka_cli *cli);
int mka_cli_memory_merge(mka_cli *cli);
int mka_cli_bench_limits(mka_cli *cli);
int mka_cli_bench_attention(mka_cli *cli);
int mka_cli_bench_model(mka_cli *cli);

#endif
