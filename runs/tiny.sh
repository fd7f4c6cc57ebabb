#!/usr/bin/env bash
# Make the embedded model from nothing: text, voices, sound, units, tokeniser, language model,
# encoder, vocoder, both stages. About three hours on 4 CPU cores. Run it again after an
# interruption: every step goes on where it stopped, and finished steps take seconds.
#
#   runs/tiny.sh                      the whole way, into runs/out/tiny
#   OUT=FOLDER CORES=8 runs/tiny.sh   somewhere else, with more cores
#   EMBED=1 runs/tiny.sh              and put the result into llama_omni/assets/tiny
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/out/tiny}
CORES=${CORES:-4}
BIN=.venv/bin
# One thread a process: the parts are small, and train side by side.
export OMP_NUM_THREADS=1
omni() { "$BIN/python" -m llama_omni.cli "$@"; }
mkdir -p "$OUT/log"

omni data build tiny -o "$OUT/data" --processes "$CORES"
[ -f "$OUT/tokenizer/tokenizer.json" ] || omni train tokenizer -o "$OUT/tokenizer"

# Side by side: the language model and then the vocoder on one core, the encoder on the others.
# In a process group of its own, so that it can be ended as a whole when another part fails.
parts=
stop() { [ -z "$parts" ] || kill -- "-$parts" 2> /dev/null || true; }
trap stop EXIT
set -m
(
	omni train lm --tokenizer "$OUT/tokenizer" -o "$OUT/lm" --threads 1
	omni train vocoder --data "$OUT/data" -o "$OUT/vocoder" --threads 1
) > "$OUT/log/lm-vocoder.log" 2>&1 &
parts=$!
set +m
workers=$((CORES > 3 ? 3 : CORES > 1 ? CORES - 1 : 1))
spread() { # PROCESSES COMMAND...: rows of a step are divided among processes
	local processes=$1
	shift
	"$BIN/torchrun" --standalone --nproc-per-node "$processes" -m llama_omni.cli "$@"
}
spread "$workers" train encoder --data "$OUT/data" --tokenizer "$OUT/tokenizer" \
	-o "$OUT/encoder" --threads 1 --set training.batch_size=$((36 / workers))
wait "$parts" || { cat "$OUT/log/lm-vocoder.log" >&2; exit 1; }
parts=

both=$((CORES > 3 ? 4 : CORES > 1 ? 2 : 1))
spread "$both" train tiny --data "$OUT/data" --llm "$OUT/lm/final" --encoder "$OUT/encoder/final" \
	--vocoder "$OUT/vocoder/final" -o "$OUT/stages" --threads 1 \
	--set stage1.batch_size=$((32 / both)) --set stage2.batch_size=$((32 / both))
[ -z "${EMBED:-}" ] || place=llama_omni/assets/tiny
"$BIN/python" runs/embed.py --model "$OUT/stages/stage2/final" --vocoder "$OUT/vocoder/final" \
	--units "$OUT/data/units" -o "${place:-$OUT/model}"
