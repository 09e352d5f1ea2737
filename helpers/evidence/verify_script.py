"""VERIFY.txt: how to check a run years later with nothing but a shell, sha256sum and ssh-keygen.

The file is a script whose comments are the explanation. It holds the digest of the newest seal, and one command a signature;
`runbook verify` writes it again and compares.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from helpers import audit
from helpers.errors import RunbookError
from helpers.evidence.signing import REHEARSAL, REVOKED
from helpers.evidence.statement import BEHIND, CHANGING, KIND, MAY_BE_EMPTY, REFUSED, SIGNATURE, Seal
from helpers.run.folders import RunPath, RunState
from helpers.run.plan import Step

NAME = RunPath.VERIFY
NEWEST = re.compile(r"^newest=(?P<digest>\S+)  # (?P<name>.+)$", re.M)

_WHEN = r"[0-9]{8}T[0-9]{9}Z\.json"

_HEAD = r"""# The evidence of run {run}, to be verified without the toolkit that made it. In this folder:
#
#   bash VERIFY.txt [DIGEST ...]            DIGEST is the SHA-256 of a seal, as it was noted elsewhere
#   SIGNERS=FILE bash VERIFY.txt            FILE, from elsewhere, lists the people and the runner's key (runbook-seal);
#                                           keys in FILE.revoked, if it is there, sign nothing
#
# It names whatever does not fit and ends with exit code 1, or says that everything fits and ends with 0. It cannot see:
#
# - whether this file was changed: read it, or compare it by the toolkit's verify command, which makes it again;
# - without a digest or a list from elsewhere: whether all seals were made again, with a new log, by who has the runner's key;
# - without a digest from elsewhere: whether all that came after some seal was cut off; never: a line behind the newest;
# - index.html, which is no evidence, tokens of a time-stamping authority, and the signatures in files .dsse;
# - what somebody did who could use the key of the toolkit's workspace. A seal or digest noted elsewhere shows what was sealed
#   by then;
# - whether a file is what the newest line of audit.jsonl names, or what an older one does: the verify command compares them;
# - a name that run.json holds twice: it reads the first; the verify command refuses such a file;
# - whether the parameters were changed in the run, but for who has to sign: the toolkit's verify command compares them;
# - whether an approval accepts each marginal criterion, or says that it was given after the step acted, and what a result means:
#   read it; nor every character in a name that is not to be seen.
#
# Needed: bash, GNU coreutils, grep, sed, find, and ssh-keygen of OpenSSH 8.9 or later.

export LC_ALL=C; {{ # all that is said goes through cat -v below: nothing that this folder holds acts on a terminal
bad=0; complain() {{ echo "$*"; bad=1; }}
grep() {{ command grep -a "$@"; }} # a zero byte makes no line of a file unseen
said() {{ grep -o "\"$1\":\"[^\"]*\"" "$2" | head -n 1 | cut -d'"' -f4; }}
gone=(); [ -z "$SIGNERS" ] || [ ! -e "$SIGNERS.revoked" ] || gone=(-r "$SIGNERS.revoked")
c=$(find . \( -name '*[[:cntrl:]]*' -o -name $'*\xc2[\x80-\x9f]*' -o -name $'*\xe2\x80[\x8b-\x8f\xa8-\xae]*' -o \
  -name $'*\xe2\x81[\xa0-\xaf]*' -o -name $'*\xd8\x9c*' \) -print0 | tr '\n\0' '? ')
[ -z "$c" ] || {{ complain "control characters in a name: $c"; exit 1; }}
c=$(find . -mindepth 1 \( -name '-*' -o -name ' *' -o -name '* ' -o -name '*["\\]*' \))
[ -z "$c" ] || complain "a name that commands misread: $c"
links=$(find . -mindepth 1 ! -type d ! -type f); [ -z "$links" ] || {{ complain "not a file: $links"; exit 1; }}
c=$(printf '%s\n' seals/* | grep -vxE 'seals/[0-9]{{4,}}-[0-9TZ.]+\.json(\.sig|\.tsr|\.dsse)?')
[ -z "$c" ] || complain "not a seal: $c"
out=$(grep -lE '("[0-9a-f]*"\}}|"bytes":[0-9]+),"name":"(/|([^"]*/)?\.\.["/])' seals/*.json)
[ -z "$out" ] || {{ complain "names a file outside of this folder: $out"; exit 1; }}
instant() {{ said created "$1" | sed -E 's/[-:T]//g; s/\..*/Z/'; }}
listed() {{ # the files of a seal: SHA-256, name
  grep -o '{{"digest":{{"sha256":"[0-9a-f]*"}},"name":"[^"]*"}}' "$1" |
    sed -E 's/.*"sha256":"([0-9a-f]+)"\}},"name":"(.*)"\}}/\1  \2/' | sort
}}
any=$'[ !#-\x7f]*' entry=$'[ -\x7f]*' # ASCII: without a quotation mark, and with
entry='^\{{"action": "'$any'", "facts": \{{'$entry'\}}, '$entry'"user": "'$any'", "when": "'$any'"\}}$'
log=$(sed -E "/$entry/!s/.*//" audit.jsonl) # its lines; an empty one for what is none, which proves nothing

# 1. The seals. Each is an in-toto statement in one line of JSON and names the SHA-256 of the seal before it. The digest of
#    the newest one stands here; whoever wrote it down elsewhere on the day can compare. Each is signed by the runner whose
#    key it names, which proves no more than that: compare its fingerprint with the one in the announcement.
newest={newest}  # {seal}
all=(seals/*.json) digests=$(sha256sum seals/*.json)
before=none created='' runner='' last='' holders=''
while read -r digest seal; do
  grep -qF "\"previous\":\"$before\"" "$seal" || complain "$seal does not follow the seal before it"
  before=$digest now=$(said created "$seal") key=$(said fingerprint "$seal")
  [[ ! $now < $created ]] || complain "$seal is older than the seal before it"
  created=$now
  if [ -z "$key" ]; then
    echo "$seal is not signed"
    [ -z "$runner$SIGNERS" ] || complain "$seal should be signed"
    continue
  fi
  by=$(ssh-keygen -Y check-novalidate -n runbook-seal -s "$seal.sig" < "$seal") && echo "$by"
  [ "${{by##* }}" = "$key" ] || complain "$seal is not signed with $key"
  if [ -n "$SIGNERS" ]; then
    who=$(ssh-keygen -Y find-principals -Overify-time="$(instant "$seal")" -f "$SIGNERS" -s "$seal.sig" \
      < "$seal" 2>/dev/null | head -n 1)
    ssh-keygen -Y verify -Overify-time="$(instant "$seal")" "${{gone[@]}}" -f "$SIGNERS" -I "$who" -n runbook-seal \
      -s "$seal.sig" < "$seal" > /dev/null || complain "$seal is not signed by one whom $SIGNERS allows"
  elif [ "${{runner:-$key}}" != "$key" ]; then
    complain "$seal is not signed with the key of the seal before it"
  fi
  runner=$key
  if grep -qF '"envelope":".dsse"' "$seal"; then # its summary for tools that read in-toto attestations
    sed -E 's/.*"payload":"([^"]*)".*/\1/' "$seal.dsse" | base64 -d | grep -qF "$before" ||
      complain "$seal.dsse is not of its seal"
  fi
done <<< "$digests"
seal=${{all[${{#all[@]}} - 1]}}
[ "$before" = "$newest" ] || complain "$seal is not the newest seal as it was set"
for digest in "$@"; do
  digest=${{digest,,}}
  if [[ ! $digest =~ ^[0-9a-f]{{64}}$ ]]; then complain "no SHA-256, of 64 hexadecimal digits: $digest"
  elif ! grep -q "^$digest  " <<< "$digests"; then complain "no seal has the expected SHA-256 $digest"; fi
done
set=$(sort -u <<< "$log" |
  sed -nE 's#^\{{"action": "sealed", "facts": \{{"digest": "([0-9a-f]+)", "number": ([0-9]+)\}}.*#\1 \2#p')
while read -r digest number; do # each seal as the log says that it was set
  complain "audit.jsonl: seal $number with the SHA-256 $digest was set, and is not here: seals were made again"
done < <(comm -23 <(grep . <<< "$set") <(sed -nE 's#^([0-9a-f]+)  seals/0*([0-9]+)-.*#\1 \2#p' <<< "$digests" | sort))
sed -nE 's#^\{{"action": "seal", "facts": \{{[^}}]*"number": ([0-9]+)\}}.*#\1#p' <<< "$log" | sort -nc 2> /dev/null ||
  complain "audit.jsonl: an earlier seal was begun after a later one: seals were made again"
while read -r digest; do
  complain "$(grep "^$digest " <<< "$digests" | cut -c67-): audit.jsonl does not say that it was set"
done < <(comm -23 <(grep -lF '"sealed":"named"' seals/*.json | xargs -rd '\n' sha256sum | cut -c-64 | sort) \
  <(cut -c-64 <<< "$set"))

# 2. Every sealed file, by its SHA-256; nothing that was sealed before was changed since, but for what the audit log names.
sealed=$(listed "$seal")
text='"([^"\\]|\\.)*"'
is() {{ grep -ohE "\"(run\":\{{[^}}]*\}}|directory\":$text)" "$@" | grep -oE "\"[a-z]+\":($text|true|false|null)" | sort -u; }}
while IFS= read -r pair; do # what a run is never changes
  [ "$(is seals/*.json | grep -cF "${{pair%%:*}}:")" = 1 ] || complain "seals/: not all say $pair, as ${{all[0]}} does"
  grep -qxF -e "  ${{pair%%:*}}: ${{pair#*:}}" -e "  ${{pair%%:*}}: ${{pair#*:}}," run.json ||
    complain "run.json: ${{all[0]}} says $pair"
done < <(is "${{all[0]}}" | grep -v '^"binding":')
echo "$sealed" | sha256sum --check --quiet --strict || bad=1
parts() {{ grep -oE '"(bound|files|lists|moves|sealed|work)":["{{]|"{log_key}":"' "$1" | sort -u; }}
approvals() {{ grep -oE '"approvals":\{{[^}}]*\}}' "$1" | head -n 1; }}
was='' had='' who=''
for each in seals/*.json; do
  files=$(listed "$each") has=$(parts "$each") ask=$(approvals "$each")
  [ "$had" = "$has" ] || [ -z "$(comm -23 <(grep . <<< "$had") <(echo "$has"))" ] || complain "$each lacks what $last has"
  [[ "$was"$'\n' != *'  allowed_signers'$'\n'* || "$files"$'\n' == *'  allowed_signers'$'\n'* ]] ||
    complain "$each: it has no list of who may sign, and $last has one"
  [ -z "$who" ] || [ "$who" = "$ask" ] || complain "$each: other people sign than in $last"
  [ -n "$last" ] && [ "$was" != "$files" ] && grep -qF '"runner":' "$last" && while read -r digest name; do
    # A step that runs again moves what it left before; logs of older toolkits do not name that.
    [[ $name != earlier/* ]] && grep "^$digest  earlier/" <<< "$files" | cut -d/ -f3- | grep -qxFe "$name" &&
      {{ ! grep -qF '"moves":"named"' "$last" ||
        grep -qF "{{\"digest\": \"$digest\", \"file\": \"$name\", \"to\": \"earlier/" <<< "$log"; }} && continue
    now=$(grep "^[0-9a-f]*  ${{name//./\\.}}$" <<< "$files" | cut -c-64)
    [[ $name != *' '* && " {changing} " == *" $name "* ]] && grep -qF "\"sha256\": \"$now\"" <<< "$log" && continue
    complain "$name: changed between $last and $each"
  done < <(comm -23 <(echo "$was") <(echo "$files"))
  last=$each was=$files had=$has who=$ask
done

# 3. The logs grow; what was there when each seal was set is unchanged. Behind the newest only audit.jsonl says that it was set.
seen=''
for each in seals/*.json; do
  while read -r length name digest; do
    [[ "$seen" == *" $length $name $digest "* ]] || [ "$(head -c "$length" < "$name" | sha256sum)" = "$digest  -" ] ||
      complain "$name: changed since $each"
    held+=" $length $name $digest "
    only='x^'; [ "$name" != audit.jsonl ] || only='^{behind}$'
    [ "$each" != "$seal" ] || [ "$(tail -c "+$((length + 1))" < "$name" | grep -acvE "$only")" = 0 ] ||
      complain "$name: lines added later"
  done < <(grep -o '{{"bytes":[0-9]*,"name":"[^"]*","sha256":"[0-9a-f]*"}}' "$each" |
    sed -E 's/.*"bytes":([0-9]+),"name":"(.*)","sha256":"([0-9a-f]+)"\}}/\1 \2 \3/')
  seen=$held held=''
done

# 4. The lines of the audit log: each holds the SHA-256 of the line before it, and is signed by the key that the seals name; what
#    an older toolkit wrote, whose seals name none, is not signed. What a crash cut short, or somebody added that is no such line,
#    proves nothing: the next line says so, and has its SHA-256.
before=0000000000000000000000000000000000000000000000000000000000000000 keys='' old=0 at=0 number=0 gap=() next=0
ends=() holds=() after=() # of each seal: how many bytes, and so lines, of the log it holds; the step whose end it seals
while IFS= read -r said; do
  while [ "$next" -lt "${{#all[@]}}" ] && [ "${{all[next]}}" != "${{said%%.json:*}}.json" ]; do next=$((next + 1)); done
  case $said in
    *'"after":"'*) after[next]=${{said##*:}} ;;
    *) said=${{said##*'"bytes":'}}; ends[next]=${{said%%,*}} ;;
  esac
done < <(grep -oHE '"after":"[0-9]*"|"bytes":[0-9]+,"name":"audit.jsonl"' seals/*.json)
next=0
for each in seals/*.json; do
  key=$(said {log_key} "$each"); keys+=" $key"
  [ -n "$key" ] || old=$(grep -o '"bytes":[0-9]*,"name":"audit.jsonl"' "$each" | tr -cd 0-9)
done
[ "$old" = 0 ] || echo "audit.jsonl: the first $old bytes are chained, not signed"
raw() {{ # lines, as they are in the file
  local IFS=$'\n'
  if [[ "$*" != *$'\x01'* ]]; then printf %s "$*"; else printf %s "$*" | sed -z 's/\x01\x03/\x00/g; s/\x01\x02/\x01/g'; fi
}}
signature='^(.*), "signature": "([A-Za-z0-9+/=]+)"(, "user": "[^"]*", "when": "[^"]*"\}})$'
while IFS= read -r line || [ -n "$line" ]; do
  long=${{line//$'\x01'?/.}} long=${{#long}}
  until [ "$next" = "${{#all[@]}}" ] || [ "${{ends[next]:-0}}" -gt $((at + long)) ]; do
    holds[next]=$number next=$((next + 1))
  done
  number=$((number + 1)) follows=$before before=$(raw "$line" | sha256sum) before=${{before%% *}}
  if [[ ! $line =~ $entry ]]; then
    gap+=("$line") at=$((at + long + 1))
    continue
  elif [ "${{#gap[@]}}" != 0 ]; then
    torn=$(raw "${{gap[@]}}" | sha256sum | cut -c-64)
    if [[ $line == '{{"action": "{closed}", '*"\"sha256\": \"$torn\""* ]]; then
      echo "audit.jsonl: cut short, or added by somebody, and proves nothing: ${{gap[*]}}"
    else complain "audit.jsonl: broken before: ${{gap[*]}}"; fi
  fi
  gap=()
  case "$line" in *"\"previous\": \"$follows\""*) ;; *) complain "audit.jsonl: broken before: $line" ;; esac
  if [ "$at" -ge "${{old:-0}}" ] && [ -n "${{keys// /}}" ]; then
    by=''
    [[ ! $line =~ $signature ]] || by=$(ssh-keygen -Y check-novalidate -n {log_namespace} -s <(printf '%s\n' \
      '-----BEGIN SSH SIGNATURE-----' "${{BASH_REMATCH[2]}}" '-----END SSH SIGNATURE-----') \
      < <(printf %s "{run} ${{BASH_REMATCH[1]}}${{BASH_REMATCH[3]}}"))
    [[ -n $by && " $keys " == *" ${{by##* }} "* ]] || complain "audit.jsonl: not signed by the key that the seals name: $line"
  fi
  at=$((at + long + 1))
done < <(sed 's/\x01/\x01\x02/g; s/\x00/\x01\x03/g' audit.jsonl) # a shell's line holds no zero byte
[ "${{#gap[@]}}" = 0 ] || complain "audit.jsonl: broken before: ${{gap[*]}}"
for ((; next < ${{#all[@]}}; next++)); do holds[next]=$number; done

# 5. Nothing else is here: index.html is made from these files, and this is {name}.
logs=$(grep -o '"bytes":[0-9]*,"name":"[^"]*"' "$seal" | cut -d'"' -f6)
added=$(comm -13 <({{ echo "$sealed" | cut -c67-; echo "$logs"; }} | sort) <(find . -mindepth 1 ! -type d | cut -c3- |
  grep -vxE 'seals/[^/.][^/]*\.json(\.sig|\.tsr|\.dsse)?|index\.html|{escaped}' | sort))
[ -z "$added" ] || complain "not sealed: $added"
for beside in seals/*.json.*; do
  [ ! -e "$beside" ] || [ -f "${{beside%.*}}" ] || complain "$beside belongs to no seal"
done
folders=$(find seals -mindepth 1 -type d); [ -z "$folders" ] || complain "not a seal: $folders"
empty=$(find . -mindepth 1 -type d -empty ! -path './earlier/*' | grep -vxE '\./({full})')
[ -z "$empty" ] || complain "an empty folder: $empty"

# 6. The results: each passed one is the one that its notebook shows; the seal has its verdict, and the decision of step {review}.
for result in results/*.json; do
  verdict=$(sed -nE 's/^  "verdict": "([a-z ]+)",?$/\1/p' "$result" | tr '\n' ' ') verdict=${{verdict% }}
  [ -z "$verdict" ] || grep -qF "\"result\":\"$(sha256sum < "$result" | cut -d' ' -f1)\",\"verdict\":\"$verdict\"" "$seal" ||
    complain "$result: the seal says another verdict"
  notebook=$(printf '%s\n' ./"$(basename "$result" .json)"_*.ipynb | head -n 1)
  if [ ! -f "$notebook" ]; then
    ! grep -qF '"execution": "' "$result" || complain "$result: its notebook is missing"
  elif grep -qx '  "error": null,' "$result" && ! grep -qx '  "verdict": "fail"' "$result"; then
    grep -qF "$(sha256sum < "$result" | cut -d' ' -f1)" "$notebook" || complain "$result is not what $notebook shows"
  fi
done
if grep -qF '"files":"named"' "$seal"; then # the log names every file
  while read -r digest name; do
    grep -F ": \"$digest\"" <<< "$log" | grep -qF -e "\"$name\"" -e "\"${{name%.sig}}\"" ||
      complain "$name: audit.jsonl names no such file"
  done < <(listed "$seal")
elif grep -qF '"work":"named"' "$seal"; then # the log names each passed result, by whoever ran the step
  for result in results/*.json; do
    grep -qx '  "error": null,' "$result" && ! grep -qx '  "verdict": "fail"' "$result" || continue
    step=$(basename "$result" .json)
    grep -E '^\{{"action": "step ends"' <<< "$log" | grep -F "\"step\": \"$step\"" |
      grep -qvF '"result": ' || grep -qF "\"result\": \"$(sha256sum < "$result" | cut -d' ' -f1)\"" <<< "$log" ||
      complain "$result: audit.jsonl names no such file"
  done
  for list in allowed_signers*; do # who may sign
    [ ! -e "$list" ] || grep -qF "\"sha256\": \"$(sha256sum < "$list" | cut -d' ' -f1)\"" <<< "$log" ||
      complain "$list: audit.jsonl names no such file"
  done
fi
echo "decision: $(said decision "$seal")"
[ "$(cat results/{review}.json 2> /dev/null | sed -nE 's/^    "decision": "(.*)",?$/\1/p')" = "$(said decision "$seal")" ] ||
  complain "results/{review}.json: the seal says another decision"

# 7. The signatures: each over its statement, in the namespace of its role, by a key that allowed_signers lists, and that was
#    valid when it was given and when it was sealed; the statement names the SHA-256 of the seal that was signed.
logged() {{ # statements of a gate and role, as the log recorded them
  sed -nE 's#^\{{"action": "signed", "facts": \{{[^}}]*"file": "(signoffs/'"$1"'-{when})".*#\1#p' <<< "$log"
}}
for digest in $(sed -nE 's#^\{{"action": "signed", "facts": \{{[^}}]*"statement": "([0-9a-f]+)".*#\1#p' <<< "$log"); do
  find signoffs earlier -path '*signoffs/*.json' -exec sha256sum {{}} + 2>/dev/null | grep -q "^$digest " ||
    complain "a statement that audit.jsonl records is not here: $digest"
done
wrong=$(grep -E '^\{{"action": "signed"' <<< "$log" |
  grep -vE '"file": "signoffs/([a-z-]+)-([a-z_]+)-{when}", "gate": "\1", "role": "\2"')
[ -z "$wrong" ] || complain "audit.jsonl: a line that somebody signed names another statement: $wrong"
foreign=$(find signoffs earlier -path '*signoffs/*' 2> /dev/null |
  grep -vxE '(earlier/[^/]+/)?signoffs/([a-z_-]+-{when}(\.sig)?|\.[^/]+)')
[ -z "$foreign" ] || complain "no statement: $foreign"
again=$(logged '[a-z_-]+' | sort | uniq -d); [ -z "$again" ] || complain "recorded twice: $again"
no_go=$(find signoffs earlier -path '*signoffs/*.json' -exec grep -lF '"decision":"no-go"' {{}} + 2>/dev/null | sort)
[ -z "$no_go" ] || echo "no-go: $no_go"
good() {{ # statement, role, list, time: by whom it is signed, as that list allowed then
  local revoked=() who out
  [ ! -e "$3{old}" ] || revoked=(-r "$3{old}")
  while IFS= read -r who; do
    out=$(ssh-keygen -Y verify -Overify-time="$4" "${{revoked[@]}}" -f "$3" -I "$who" -n "runbook-$2" -s "$1.sig" < "$1") &&
      {{ echo "$out"; return; }}
  done < <(ssh-keygen -Y find-principals -Overify-time="$4" -f "$3" -s "$1.sig" 2> /dev/null)
  return 1
}}
limit() {{ # seal: the limit of changes in the result of step {review} that it has, wherever that is now
  local each digest=$(listed "$1" | sed -nE 's#^([0-9a-f]+)  results/{review}\.json$#\1#p')
  for each in results/{review}.json earlier/*/results/{review}.json; do
    [ -f "$each" ] && [ "$(sha256sum < "$each" | cut -c-64)" = "$digest" ] || continue
    sed -n '/^    "delta_limit": {{$/,/^    }}/p' "$each" | tr -d ' \n' | sed 's/,$//'; return
  done
  return 1
}}
vouched() {{ # statement, gate, role, list: what is asked of every statement, by the list of signers under which it was given
  local run=$(said run "$1") by named also over covering most
  local time=${{1##*-}} name="signoffs/${{1##*/}}"; time=${{time:0:8}}${{time:9:6}}Z
  [[ "$1" == *"-$(said when "$1" | sed -E 's/[-:.]//g; s/\+0000$/Z/').json" ]] || complain "$1: its name has another time"
  [ "$run" = "{run}" ] || complain "$1 is of another run"
  over=$(grep "^$(sed -nE 's/.*"seal":\{{"name":"[^"]*","sha256":"([0-9a-f]{{64}})"\}}.*/\1/p' "$1") " <<< "$digests" | cut -c67-)
  [ -n "$over" ] && grep -qF "\"after\":\"$(sealed_by "$2")\"" "$over" || complain "$1 signs a seal that is not here"
  [ -z "$over" ] || [[ ! "$(said when "$1")" < "$(said created "$over")" ]] || complain "$1 is older than the seal that it signs"
  [ -z "$over" ] || grep -qF "$(grep -oE '"rehearsal":(true|false)' "$1")" <(is "$over") ||
    complain "$1: a rehearsal and a run that is none sign nothing for each other"
  grep -qxE "$form" "$1" && [ "$(wc -l < "$1") $(grep -c '' "$1")" = '1 1' ] && grep -qF "\"gate\":\"$2\"" "$1" &&
    grep -qF "\"role\":\"$3\"" "$1" && ! grep -qE "$unseen" "$1" || complain "$1 is no statement of $3 for $2"
  [ -z "$over" ] || grep -qF "\"seal\":{{\"name\":\"$over\"," "$1" || complain "$1 calls the seal that it signs by another name"
  most=''; [ "$2" != cutover ] || most=$(limit "$over") || most=unknown # a result that is not here is named above
  [ "$most" = unknown ] || [ "$(grep -oE '"delta_limit":\{{[^{{}}]*\}}' "$1")" = "$most" ] ||
    complain "$1: its limit of changes is not that of step {review}, which ${{over:-no seal}} has"
  by=$(good "$1" "$3" "$4" "$time") || complain "$1 is not signed by one who may, as $4 says"
  echo "$by"; named=${{by#* signature for }} named=${{named% with *}}
  [[ $named != {rehearsal}* ]] || is "$over" | grep -q '"rehearsal":true' || complain "$1 is signed with a key of a rehearsal"
  holders+=$(set -f; for each in "${{by##* }}" ${{named//,/ }}; do echo "$each $3"; done)$'\n'
  covering=$(grep -lE "\"name\":\"(earlier/[^\"]*/)?${{name//./\\.}}\"" seals/*.json | head -n 1)
  [ -z "$covering" ] || good "$1" "$3" "$4" "$(instant "$covering")" > /dev/null ||
    complain "$1: its key was not valid when it was sealed"
  [ -n "$SIGNERS" ] || return
  also=$(good "$1" "$3" "$SIGNERS" "$time") || {{ complain "$1 is not signed by one whom $SIGNERS allows"; return; }}
  also=${{also#* signature for }}
  [ "${{also% with *}}" = "$named" ] || complain "$1: its key is that of $named in $4, and of ${{also% with *}} in $SIGNERS"
}}
sealed_by() {{ case $1 in {gates} *) echo none ;; esac; }}
line='"([^"\\[:cntrl:]]|\\["\\])*"' # readable: no control characters, and below none that nobody sees, or that turn the line
unseen=$'\xc2[\x80-\xa0\xad]|\xd8\x9c|\xe2\x80[\x80-\x8f\xa8-\xaf]|\xe2\x81[\x9f-\xaf]|\xe3\x80\x80|\xef\xbb\xbf|\xf3\xa0'
form='\{{"accept":\[('$line'(,'$line')*)?\],"decision":"(go|no-go)",("delta_limit":\{{"changes":[0-9]+,"chunks":[0-9]+\}},)?'
form+='"gate":"[a-z-]+","name":'$line',"reason":'$line',"rehearsal":(true|false),"role":"[a-z_]+","run":'$line
form+=',"seal":\{{"name":'$line',"sha256":"[0-9a-f]{{64}}"\}},"type":"{kind}",'
form+='"when":"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T[0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}\.[0-9]{{3}}\+00:00"\}}'
signed() {{ # statement, gate, role
  sed -E 's/.*"decision":"([a-z-]+)".*"gate":"([a-z-]+)".*"role":"([a-z_]+)".*/\2: \3 signed \1/' "$1"
  vouched "$1" "$2" "$3" allowed_signers
}}
judged() {{ # line of the log, gate, role, seal: the statement that it names, wherever it is now, by the signers of that seal
  name=$(sed -nE 's#.*"file": "(signoffs/'"$2-$3"'-{when})".*#\1#p' <<< "$1")
  at=$(for each in "$name" earlier/*/"$name"; do [ ! -f "$each" ] || sha256sum "$each"; done |
    grep "^$(sed -nE 's#.*"statement": "([0-9a-f]+)".*#\1#p' <<< "$1")  " | head -n 1 | cut -c67-)
  [ -n "$name" ] && [ -n "$at" ] || {{ complain "no statement of $3 is where audit.jsonl says: $1"; return; }}
  grep -qF "\"sha256\":\"$(sha256sum < "$4" | cut -d' ' -f1)\"" "$at" || complain "$at signs another seal than $4"
  list=''
  for each in allowed_signers earlier/*/allowed_signers; do
    [ -f "$each" ] && [ "$(listed "$4" | grep -E '  allowed_signers({old})?$')" = "$(
      cd "$(dirname "$each")" && sha256sum allowed_signers allowed_signers{old} 2> /dev/null | sort)" ] && list=$each
  done
  [ -n "$list" ] || {{ complain "$at: the list of signers under which it was given is not here"; return; }}
  grep -qF "\"role\":\"$3\"" "$at" && grep -qF '"decision":"go"' "$at" || complain "$at is no approval of $3 for $2"
  vouched "$at" "$2" "$3" "$list"
}}
touched_nothing() {{ # result, step: a dry run, as the result says that has this SHA-256, wherever it is now
  for each in "results/$2.json" earlier/*/results/"$2.json"; do
    [ -f "$each" ] && [ "$(sha256sum < "$each" | cut -c-64)" = "$1" ] || continue
    ! grep -qE '"cut_over": |"dry_run": false' "$each"; return
  done
  return 1
}}
acts() {{ # step: the numbers of the lines of the log by which it began and was done; else of the last before a seal that has it
  local line begun='' dry='' changing='' known=' ' result
  while IFS= read -r line; do
    case $line in
      *'{{"action": "step begins", '*) begun=${{line%%:*}} changing='' dry=''; [[ $line != *'"dry_run": true'* ]] || dry=1 ;;
      *'{{"action": "cutover", '*)
        [[ $changing && $line != *'"outcome": "begun"'* ]] || echo "${{line%%:*}}"
        changing=1 ;;
      *) result=$(sed -nE 's/.*"result": "([0-9a-f]+)".*/\1/p' <<< "$line")
        if [ -n "$dry" ] && {{ [ -z "$result" ] || touched_nothing "$result" "$1"; }}; then begun='' known+="$result "
        elif [[ $line =~ \"outcome\":\ \"({refused})\" ]]; then begun=''
        elif [[ $begun && ! $line =~ \"outcome\":\ \"(pass|warning|marginal|not\ [a-z]+)\" ]]; then
          echo "$begun"; begun='' known+="$result "
        else echo "$begun ${{line%%:*}}"; begun='' known+="$result "; fi ;;
    esac
  done < <(grep -nE '^\{{"action": "(step (begins|ends)", "facts": \{{.*"step": "'"$1"'"\}}|cutover", )' <<< "$log" |
    if [ "$1" = {cutover} ]; then cat; else grep -vF '{{"action": "cutover", '; fi)
  [ -n "$dry" ] || echo "$begun"
  next=0
  while IFS= read -r line; do
    result=${{line##*'"result":"'}} result=${{result%%\"*}}
    [[ $known != *" $result "* && ! $line =~ \"error\":\"({refused})\" ]] || continue
    known+="$result "
    while [ "$next" -lt "${{#all[@]}}" ] && [ "${{all[next]}}" != "${{line%%.json:*}}.json" ]; do next=$((next + 1)); done
    echo "${{holds[next]}}"
  done < <(grep -oHE '"'"$1"'":\{{"error":"[^"]*","finished":"[^"]*","result":"[0-9a-f]*","' seals/*.json)
}}
approved='  (parameters\.yaml|results/(1[0-9]|2[0-4])\.json)$'
acts=$(for each in {fence} {cutover}; do echo "$each" $(acts "$each"); done)
approved() {{ # gate, role, step whose seal is signed, step that does not begin before ("" for the closeout)
  local line by go no each over statement other
  # Each time that it acted: what was signed by then?
  for line in $(grep "^$4 " <<< "$acts" | tr ' ' '\n' | tail -n +2 | sort -nu); do
    by=$(head -n "$line" <<< "$log" | grep -E '^\{{"action": "signed", ' | grep -F "\"gate\": \"$1\"," |
      grep -F "\"role\": \"$2\"," | tail -n 1)
    [[ "$by" == *'"decision": "go"'* ]] || complain "step $4 acted, and $2 had not signed go by then"
    go=$(sed -nE 's#.*"file": "([^"]*)".*#\1#p' <<< "$by")
    for no in $(head -n "$line" <<< "$log" | grep -E '^\{{"action": "signed", .*"decision": "no-go"' |
      sed -nE 's#.*"file": "(signoffs/'"$1-$2"'-{when})".*#\1#p'); do
      [[ "$no" < "$go" ]] || complain "step $4 acted, and $no, given later than $go, is no-go"
    done
    over='' # the newest seal that could be signed by then
    for each in "${{!all[@]}}"; do
      [ "${{after[each]}}" != "\"$3\"" ] || [ "${{holds[each]}}" -ge "$line" ] || over=$each
    done
    if [ -n "$over" ]; then
      judged "$by" "$1" "$2" "${{all[over]}}"
      for ((each = over + 1; each < ${{#all[@]}}; each++)); do # what was approved is what the step acted with
        [ "${{after[each]}}" != "\"$3\"" ] || break
        [ "${{holds[each]}}" -lt "$line" ] || [ "${{after[each]}}" = "\"$4\"" ] || continue
        [ "$4" != {cutover} ] ||
          [ -z "$(comm -23 <(listed "${{all[over]}}" | grep -E "$approved") <(listed "${{all[each]}}"))" ] ||
          complain "${{all[each]}}: step $4 acted with other parameters or results than ${{all[over]}} has"
        [ "${{after[each]}}" != "\"$4\"" ] || break
      done
    else complain "step $4 acted, and step $3 was not sealed by then"; fi
  done
  [ -e "results/${{4:-$3}}.json" ] || return
  [ -z "$4" ] || grep -q "^$4 [0-9]" <<< "$acts" || grep -q '^  "verdict": "fail"' "results/$4.json" || return # a dry run
  statement=$(logged "$1-$2" | tail -n 1)
  if [ -z "$statement$4" ]; then echo "$1: $2 has not signed"; return; fi
  if [ -z "$statement" ]; then complain "step $4 ran, and $2 has not signed"; return; fi
  [ -z "$4" ] || grep -qF '"decision":"go"' "$statement" || complain "step $4 ran although $statement is no-go"
  for other in signoffs/"$1-$2"-*.json; do # given later, though recorded before
    [[ "$other" < "$statement" ]] || grep -qF '"decision":"go"' "$other" || complain "$other is no-go and was given later"
  done
  grep -qF "$(grep -lF "\"after\":\"$3\"" seals/*.json | tail -n 1 | xargs sha256sum | cut -d' ' -f1)" "$statement" ||
    complain "$statement was given before what it approves was sealed anew"
}}
"""
_TAIL = """
{same_key}
# What was signed is readable in signoffs/, what was found in results/ and in the notebooks.
[ "$bad" = 0 ] && echo "Everything fits." || echo "Does not fit: see FAILED above."
exit "$bad"
}} 2>&1 | cat -v; exit "${{PIPESTATUS[0]}}"
"""
_GATES = f"dry-run) echo {Step.SCHEDULE_AND_NOTIFY} ;; cutover) echo {Step.REVIEW} ;; closeout) echo {Step.CLOSEOUT} ;;"
_SAME_KEY = """\
twice=$(printf %s "$holders" | sort -u | cut -d' ' -f1 | uniq -d)
[ -z "$twice" ] || complain "one key signed in several roles: $twice"
"""


def recipe(state: RunState, newest: Seal) -> str:
    """The text of VERIFY.txt for the run as it is: the same files give the same text."""
    folder = state.reports
    run = str(newest.predicate["run"]["id"])
    head = _HEAD.format(
        run=run, newest=newest.digest, seal=newest.name, name=NAME, escaped=re.escape(NAME), behind=BEHIND,
        changing=" ".join(sorted(CHANGING)), log_key=audit.LOG_KEY, log_namespace=audit.NAMESPACE, full="|".join(MAY_BE_EMPTY),
        review=Step.REVIEW, cutover=Step.CUTOVER, fence=Step.FENCE_WRITES, old=REVOKED, when=_WHEN, closed=audit.CLOSED,
        refused='|'.join(REFUSED), kind=KIND, rehearsal=REHEARSAL, gates=_GATES,
    )  # fmt: skip
    lines = [_signed(path) for path in sorted((folder / RunPath.SIGNOFFS).glob("*.json"))]
    try:
        rules = state.parameters.signoff
    except (RunbookError, OSError, ValueError):  # damaged, which section 2 says
        return head + "\n".join(lines) + "\n" + _TAIL.format(same_key="")
    lines += [f"approved cutover {role} {Step.REVIEW} {Step.CUTOVER}" for role in rules.required]
    lines += [f"approved closeout {role} {Step.CLOSEOUT} ''" for role in rules.closeout]
    lines += [f"approved dry-run {role} {Step.SCHEDULE_AND_NOTIFY} {Step.FENCE_WRITES}" for role in rules.dry_run]
    return head + "\n".join(lines) + "\n" + _TAIL.format(same_key="" if rules.one_key_for_roles else _SAME_KEY)


def _signed(path: Path) -> str:
    """The line for one statement. What its name says is what it must be: nothing is taken from a file that may be forged."""
    if (match := SIGNATURE.fullmatch(path.name)) is None:
        return f"complain {shlex.quote(f'signoffs/{path.name} is no statement')}"
    return f"signed signoffs/{path.name} {match['gate']} {match['role']}"
