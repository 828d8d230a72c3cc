#!/usr/bin/env bash
# Runs in a container of the image, with /models and /demo mounted: one prefill and one decode process, and a question about a
# document whose answer stands in it. Exit code 0: the answer was right and both processes ended by themselves.
set -euo pipefail

[[ $(id -u) != 0 ]]

code=7301846
prompt=$(sed "39s/\$/ The access code of the archive is $code./" /demo/document.txt)

kvship-prefill --model=/models/SmolLM2-135M-Instruct.Q4_1.gguf &
prefill=$!
kvship-decode --model=/models/SmolLM2-135M-Instruct.Q4_1.gguf --http= &
decode=$!
trap 'kill $prefill $decode 2>/dev/null || true' EXIT

for _ in {1..240}; do
  kvship-ready 9090 && break
  sleep 0.5
done
kvship-ready 9051
answer=$(kvship generate --chat --compression=scorer=snapkv,budget_tokens=512 --max-tokens=40 --report \
  --prompt="$prompt

What is the access code of the archive?")
printf '%s\n' "$answer"
[[ ${answer//[ ,.-]/} == *$code* ]]
kill $prefill $decode
wait $prefill
wait $decode
trap - EXIT
