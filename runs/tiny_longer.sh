#!/usr/bin/env bash
# Go on from what runs/tiny.sh made, much as the weights in llama_omni/assets/tiny did: more of the
# language model and of the encoder, then both stages again, with adapter and speech decoder kept.
# About five hours on 4 CPU cores. Run it again after an interruption: it goes on.
#
#   runs/tiny_longer.sh                      from runs/out/tiny, into its folder longer
#   OUT=FOLDER CORES=8 runs/tiny_longer.sh   from somewhere else, with more cores
#   EMBED=1 runs/tiny_longer.sh              and put the result into llama_omni/assets/tiny
#
# LM_STEPS, ENCODER_STEPS, STAGE1_STEPS and STAGE2_STEPS change how long each part goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/out/tiny}
LONGER=$OUT/longer
CORES=${CORES:-4}
BIN=.venv/bin
export OMP_NUM_THREADS=1
both=$((CORES > 3 ? 4 : CORES > 1 ? 2 : 1))
spread() { # COMMAND...: rows of a step are divided among processes
	"$BIN/torchrun" --standalone --nproc-per-node "$both" -m llama_omni.cli "$@" --threads 1
}
for part in data tokenizer lm/final encoder/final vocoder/final stages/stage2/final; do
	[ -e "$OUT/$part" ] || { echo "$OUT/$part must be there: run runs/tiny.sh first" >&2; exit 2; }
done
mkdir -p "$LONGER"

spread train lm --tokenizer "$OUT/tokenizer" --begin-with "$OUT/lm/final" -o "$LONGER/lm" \
	--set training.batch_size=$((96 / both)) --set training.max_steps="${LM_STEPS:-6000}" \
	--set training.learning_rate=1.5e-3 --set texts.sources.0.limit=500000 --set texts.seed=11
# Varied from the first step on: these weights know plain sound.
spread train encoder --data "$OUT/data" --tokenizer "$OUT/tokenizer" \
	--begin-with "$OUT/encoder/final" -o "$LONGER/encoder" \
	--set training.batch_size=$((48 / both)) --set training.max_steps="${ENCODER_STEPS:-7000}" \
	--set training.learning_rate=1.2e-3 --set encoder.clean_steps=0 --set encoder.ramp_steps=0 \
	--set encoder.augment.warp=0.2 --set encoder.augment.speed=0.12
stages() { # STAGE ARGUMENTS...
	local stage=$1
	shift
	spread train tiny --stage "$stage" --data "$OUT/data" --vocoder "$OUT/vocoder/final" \
		-o "$LONGER/stages" --set "stage$stage.batch_size=$((32 / both))" "$@"
}
stages 1 --model "$OUT/stages/stage2/final" --llm "$LONGER/lm/final" \
	--encoder "$LONGER/encoder/final" --set stage1.max_steps="${STAGE1_STEPS:-5200}" \
	--set stage1.learning_rate=3e-4 --set stage1.text_source=tiny --set stage1.text_rows=40000 \
	--set stage1.text_share=0.25
stages 2 --set stage2.max_steps="${STAGE2_STEPS:-2800}" \
	--set stage2.learning_rate=7e-4
[ -z "${EMBED:-}" ] || place=llama_omni/assets/tiny
"$BIN/python" runs/embed.py --model "$LONGER/stages/stage2/final" --vocoder "$OUT/vocoder/final" \
	--units "$OUT/data/units" -o "${place:-$LONGER/model}"
