#!/usr/bin/env bash
# Runs in a container of the image, with /models and /demo mounted: looks at the image from inside, then starts its programs as
# pods do, one prefill and one decode process, and asks about a document in which the answer stands. Exit code 0: all is as it
# should be, the answer was right and both processes ended by themselves. The last line tells the image's size.
set -euo pipefail

fail() {
  echo "smoke.sh: $*" >&2
  exit 1
}

[[ $(id -u):$(id -g) == 65532:65532 ]] || fail "runs as $(id -u):$(id -g); wanted 65532:65532"
grep -q '"spdxVersion": "SPDX-2.3"' /usr/share/doc/kvship/kvship.spdx.json || fail "no bill of materials"
for program in kvship-prefill kvship-decode kvship; do
  libraries=$(ldd "/usr/local/bin/$program")
  if grep "not found" <<<"$libraries"; then fail "$program lacks libraries"; fi
done
# Where Debian's libssl looks for the system's authorities.
[[ -s /usr/lib/ssl/certs/ca-certificates.crt ]] || fail "no authorities are in /usr/lib/ssl/certs; wanted ca-certificates"
# Without CUDA's libraries.
most_mb=300
size_mb=$(du -xcsm /usr /etc /var /opt 2>/dev/null | tail -1 | cut -f1)
[[ -d /usr/local/cuda || $size_mb -le $most_mb ]] || fail "the image has $size_mb MB; wanted at most $most_mb"

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
written=$(find / -xdev -user 65532 -type f -not -path '/proc/*' 2>/dev/null || true)
[[ -z $written ]] || fail "files were written: $written"
echo "the image has $size_mb MB"
