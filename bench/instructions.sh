#!/usr/bin/env bash
# instructions.sh [BUILD] - instructions per 32 products (or elements) of the AArch64 kernels at each level, as Markdown tables.
#
# qemu says nothing of speed, but it can name every instruction that it executes: of two runs that differ in length alone, the
# difference is the loop's. BUILD is the build folder that ./run arm makes (build-arm/build).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
program=${1:-build-arm/build}/bench/instructions

# executed CPU ARGUMENT...: how many instructions the program takes.
executed() {
    qemu-aarch64 -cpu "$1" -singlestep -d exec,nochain -D /dev/stdout "$program" "${@:2}" | grep -c '^Trace'
}

# per32 CPU LEVEL KERNEL TYPE SHORT LONG ROWS: instructions per 32 of ROWS * (LONG - SHORT) products.
per32() {
    local few many
    few=$(executed "$1" "$2" "$3" "$4" "$5")
    many=$(executed "$1" "$2" "$3" "$4" "$6")
    awk -v d=$((many - few)) -v n=$((($6 - $5) * $7)) 'BEGIN { printf " %.1f |", 32 * d / n }'
}

levels=(neon dotprod)
echo "gemv_q8, instructions per 32 weights"
echo
echo "| type | ${levels[*]/%/ |}"
echo "|---|---|---|"
for type in q4_0 q4_1 q5_0 q5_1 q8_0 iq4_nl q2_k q3_k q4_k q5_k q6_k iq4_xs; do
    printf '| %s |' $type
    for level in "${levels[@]}"; do per32 max "$level" gemv $type 1024 2048 8; done
    echo
done

echo
echo "gemm_bf16 at i8mm: $(per32 max i8mm gemm bf16 512 1024 384 | tr -d ' |') instructions per 32 products"

levels=(neon dotprod i8mm)
echo
echo "attention, 4 query rows of width 128, instructions per 32 products"
echo
echo "| kernel | ${levels[*]/%/ |}"
echo "|---|---|---|---|"
for kernel in score mix; do
    for type in f32 f16 bf16 q8_0 q4_0; do
        printf '| %s %s |' $kernel $type
        for level in "${levels[@]}"; do per32 max "$level" $kernel $type 256 512 512; done
        echo
    done
done

echo
echo "recall at neon, 4 query rows of width 128, instructions per 32 products"
echo
echo "| kernel | neon |"
echo "|---|---|"
echo "| scan |$(per32 max neon scan f32 4 8 $((64 * 512)))"
for kernel in rows_score rows_mix; do
    for type in f32 f16 bf16 q8_0 q4_0; do echo "| $kernel $type |$(per32 max neon $kernel $type 256 512 512)"; done
done

echo
echo "rows of floats, instructions per 32 elements"
echo
echo "| kernel | neon | sve 128 | sve 256 | sve 512 |"
echo "|---|---|---|---|---|"
for kernel in dot rms_norm swiglu softmax; do
    printf '| %s |' $kernel
    per32 max neon $kernel f32 1024 2048 1
    for quads in 1 2 4; do per32 max,sve-max-vq=$quads sve $kernel f32 1024 2048 1; done
    echo
done
