#!/usr/bin/env bash
# Runs the tests and benchmarks of this folder on a machine with a GPU. It needs neither Rust nor a network: a driver, and NVRTC and
# nvJitLink of a CUDA toolkit or of the wheels that come with PyTorch; for the Python package's tests, Python 3.11 with pip, NumPy and msgpack.
#
#   ./run.sh                      everything, in less than nine minutes
#   OUT=folder ./run.sh           where results go; ./out by default
#   DOTCOMPUTE_DEVICE=emulated ./run.sh
#                                 without a GPU: tests that need one are skipped, the benchmarks run on the emulated device
#   QUICK=1 ./run.sh              benchmarks that only show that they work
#
# Each test is a process of its own, under a limit. A table is printed, and everything is left in $OUT: results.json, bench.jsonl,
# coexistence.jsonl, probe.jsonl, doctor.json, machine.txt, summary.txt, and what each said in logs/. Ends with 1 if something failed.

set -u
cd "$(dirname "$0")" || exit 1

export DOTCOMPUTE_DEVICE="${DOTCOMPUTE_DEVICE:-cuda}"
export CUDA_MODULE_LOADING="${CUDA_MODULE_LOADING:-EAGER}"
export CUDA_DEVICE_MAX_CONNECTIONS="${CUDA_DEVICE_MAX_CONNECTIONS:-32}"
export RUST_BACKTRACE="${RUST_BACKTRACE:-1}"
OUT="${OUT:-out}"
# Seconds: for one test, for all of them, for those in Python, for everything.
LIMIT_TEST="${LIMIT_TEST:-60}"
LIMIT_TESTS="${LIMIT_TESTS:-280}"
# A test that hangs prints the stacks of all its threads before its limit.
export DOTCOMPUTE_TEST_TIMEOUT_S="${DOTCOMPUTE_TEST_TIMEOUT_S:-$((LIMIT_TEST * 9 / 10))}"
LIMIT_PYTHON="${LIMIT_PYTHON:-90}"
LIMIT_ALL="${LIMIT_ALL:-520}"
# What a process is given to die of a TERM, and then of a KILL.
GRACE=5

mkdir -p "$OUT/logs" || exit 1
OUT="$(cd "$OUT" && pwd)"
# Nothing that was compiled before is trusted, and none of it is a result.
export DOTCOMPUTE_CACHE="${DOTCOMPUTE_CACHE:-$(mktemp -d)}"
rm -f "$OUT"/*.json "$OUT"/*.jsonl "$OUT"/*.txt "$OUT"/logs/*
RESULTS="$OUT/results.jsonl.part"
: > "$RESULTS"
FAILED=0
SECONDS=0

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }
say() { printf '%s\n' "$*" | tee -a "$OUT/summary.txt"; }

# What comes in, as a string of JSON.
json() {
    iconv -c -f UTF-8 -t UTF-8 2>/dev/null | LC_ALL=C tr -d '\000-\010\013-\037\177' |
        sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/\t/\\t/g' |
        awk 'BEGIN { printf "\"" } NR > 1 { printf "\\n" } { printf "%s", $0 } END { printf "\"" }'
}

# limited SECONDS LOG COMMAND...: sets STATUS and TOOK. A process that not even a KILL ends (it hangs in the driver) is left behind.
limited() {
    local limit="$1" log="$2" begun deadline pid code
    shift 2
    begun="$(now)"
    deadline=$((SECONDS + limit + GRACE + 3))
    timeout -k "$GRACE" "$limit" "$@" > "$log" 2>&1 < /dev/null &
    pid=$!
    while kill -0 "$pid" 2>/dev/null && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.05; done
    if kill -0 "$pid" 2>/dev/null; then
        STATUS=stuck
    else
        wait "$pid"
        code=$?
        case "$code" in
            0) STATUS=passed ;;
            124 | 137) STATUS=timeout ;;
            *) STATUS=failed ;;
        esac
    fi
    TOOK="$(since "$begun")"
}

# What a test says first stands on the line that its harness has begun.
SKIPPED='(^|^test .* \.\.\. )skipped: '

# record PROGRAM NAME LOG: after `limited`.
record() {
    local program="$1" name="$2" log="$3"
    if [ "$STATUS" = passed ] && grep -qE "$SKIPPED" "$log"; then STATUS=skipped; fi
    case "$STATUS" in
        passed | skipped) ;;
        *) FAILED=$((FAILED + 1)) ;;
    esac
    printf '{"program":%s,"test":%s,"status":"%s","seconds":%s,"tail":%s}\n' \
        "$(printf '%s' "$program" | json)" "$(printf '%s' "$name" | json)" "$STATUS" "$TOOK" \
        "$(tail -n 20 "$log" | tail -c 4000 | json)" >> "$RESULTS"
    say "$(printf '%-8s %8s s  %s %s' "$STATUS" "$TOOK" "$program" "$name")"
    case "$STATUS" in
        failed | timeout | stuck) say "$(grep -vE '^ *$|^failures:|^test result:|RUST_BACKTRACE|^ +[0-9]+: |^ +at ' "$log" | tail -n 4 | cut -c1-300 | sed 's/^/    /')" ;;
    esac
    if [ "$STATUS" = skipped ]; then say "                     $(grep -m1 -E "$SKIPPED" "$log" | sed 's/.*skipped: //' | cut -c1-160)"; fi
}

# What is missing from here on counts as failed.
out_of_time() {
    STATUS=not-run TOOK=0
    echo "there was no time left for it" > "$3"
    record "$1" "$2" "$3"
}

about_the_machine() {
    date -u '+%Y-%m-%dT%H:%M:%SZ'
    uname -srm
    getconf GNU_LIBC_VERSION 2>/dev/null
    [ -r bundle.txt ] && cat bundle.txt
    grep -m1 'model name' /proc/cpuinfo
    echo "cores: $(nproc)"
    if command -v nvidia-smi > /dev/null; then
        timeout -k 5 30 nvidia-smi --query-gpu=name,driver_version,pci.bus_id,pcie.link.gen.current,pcie.link.width.current,memory.total,power.draw \
            --format=csv,noheader
        timeout -k 5 30 nvidia-smi
    else
        echo "nvidia-smi: not found"
    fi
    [ -r /proc/driver/nvidia/version ] && cat /proc/driver/nvidia/version
    python3 --version 2>&1
}

# Sets what the programs look at, unless it is set: CUDA_HOME for a toolkit, or the two libraries of wheels.
find_compiler() {
    local home folder
    for home in "${CUDA_HOME:-}" "${CUDA_PATH:-}" /usr/local/cuda /usr/local/cuda-13* /usr/local/cuda-12* \
        "$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)" 2>/dev/null)")" 2>/dev/null)"; do
        [ -n "$home" ] || continue
        if compgen -G "$home/lib64/libnvrtc.so.1*" > /dev/null && compgen -G "$home/lib64/libnvJitLink.so.1*" > /dev/null; then
            export CUDA_HOME="$home"
            echo "compiler: the toolkit in $home: $(cd "$home/lib64" && echo libnvrtc.so.1* libnvJitLink.so.1*)"
            return
        fi
    done
    while read -r folder; do
        [ -d "$folder/nvidia" ] || continue
        for home in "$folder"/nvidia/cu13/lib "$folder"/nvidia/cuda_nvrtc/lib; do
            if [ -d "$home" ] && [ -z "${DOTCOMPUTE_NVRTC:-}" ]; then export DOTCOMPUTE_NVRTC="$home"; fi
        done
        for home in "$folder"/nvidia/cu13/lib "$folder"/nvidia/nvjitlink/lib; do
            if [ -d "$home" ] && [ -z "${DOTCOMPUTE_NVJITLINK:-}" ]; then export DOTCOMPUTE_NVJITLINK="$home"; fi
        done
    done < <(python3 -c 'import site, sysconfig; print(*{sysconfig.get_path("purelib"), *site.getsitepackages(), site.getusersitepackages()}, sep="\n")' 2>/dev/null)
    echo "compiler: NVRTC in ${DOTCOMPUTE_NVRTC:-no wheel; the loader is asked}, nvJitLink in ${DOTCOMPUTE_NVJITLINK:-no wheel; the loader is asked}"
}

run_tests() {
    local path program name log list
    for path in tests/*; do
        program="$(basename "$path")"
        list="$OUT/logs/$program.list.txt"
        limited 20 "$list" "$path" --list --format terse
        if [ "$STATUS" != passed ]; then
            record "$program" --list "$list"
            continue
        fi
        while read -r name; do
            log="$OUT/logs/$program.$name.txt"
            # The fake driver is for machines without a GPU, and needs a C compiler.
            case "$name" in *fake_driver*) continue ;; esac
            if [ "$SECONDS" -ge "$LIMIT_TESTS" ]; then
                out_of_time "$program" "$name" "$log"
            else
                limited "$LIMIT_TEST" "$log" "$path" "$name" --exact --nocapture --test-threads=1
                record "$program" "$name" "$log"
            fi
        done < <(sed -n 's/: test$//p' "$list")
    done
    for path in examples/*; do
        [ -x "$path" ] || continue
        log="$OUT/logs/example.$(basename "$path").txt"
        limited "$LIMIT_TEST" "$log" "$path"
        record example "$(basename "$path")" "$log"
    done
}

# The tests of the Python package that need a GPU, in one process, as users have them. Only files with such tests are read: others may
# import what this machine lacks.
run_python() {
    local log="$OUT/logs/python.txt" site files
    [ -d python ] || return
    if ! python3 -c 'import pip, msgpack, numpy, sys; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1; then
        STATUS=passed TOOK=0
        echo "skipped: there is no Python 3.11 with pip, NumPy and msgpack" > "$log"
        record python 'pytest -m cuda' "$log"
        return
    fi
    site="$(mktemp -d)"
    limited 60 "$log" python3 -m pip install --quiet --no-index --no-deps --no-cache-dir --target "$site" python/wheels/*.whl
    if [ "$STATUS" != passed ]; then
        record python 'pip install' "$log"
        return
    fi
    mapfile -t files < <(cd python && grep -rlE 'mark\.cuda' tests --include='test_*.py')
    limited "$LIMIT_PYTHON" "$log" env -C python PYTHONPATH="$site" PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 \
        python3 -m pytest --quiet -rfEs -m cuda -p pytest_asyncio.plugin -p pytest_timeout -p no:cacheprovider "${files[@]}"
    record python 'pytest -m cuda' "$log"
    say "                     $(tail -n 1 "$log")"
    rm -rf "$site"
}

# The detector on this device finds what it finds on the processor, to the last bit.
detect() {
    local log="$OUT/logs/detect.txt" series="$OUT/logs/series.csv"
    awk 'BEGIN {
        print "timestamp,value"
        for (i = 0; i < 200000; ++i) printf "%d,%.6f\n", i * 60, sin(i / 50) * 10 + (i * 7919 % 1000) / 100 + (i % 30011 == 30010 ? 90 : 0)
    }' > "$series"
    # shellcheck disable=SC2016
    limited "$LIMIT_TEST" "$log" bash -c '
        for backend in cpu "$DOTCOMPUTE_DEVICE"; do
            bin/dotcompute detect "$1" --backend "$backend" --output "$1.$backend" | tail -n 1 || exit 1
        done
        cmp "$1.cpu" "$1.$DOTCOMPUTE_DEVICE" && echo "equal scores"' detect "$series"
    record dotcompute detect "$log"
    cat "$log" | tee -a "$OUT/summary.txt"
    rm -f "$series"*
}

# What each call of the driver took beside a ring kernel that never rests, from the test that makes them.
coexistence() {
    sed -nE 's/^(test .* \.\.\. )?([a-zA-Z][^:]*): ([0-9]+\.[0-9]{3})$/{"call":"\2","milliseconds":\3}/p' "$OUT"/logs/*calls_that_wait*.txt 2>/dev/null \
        > "$OUT/coexistence.jsonl"
    [ -s "$OUT/coexistence.jsonl" ] || return
    say ""
    say "calls of the driver beside a resident ring kernel, milliseconds:"
    say "$(sed -E 's/^\{"call":"(.*)","milliseconds":(.*)\}$/\2\t\1/' "$OUT/coexistence.jsonl" | sort -rn | awk -F'\t' '{ printf "%12s  %s\n", $1, $2 }')"
}

run_benches() {
    local bench="bin/dotcompute-bench" quick=() left
    limited 30 "$OUT/logs/probe.txt" "$bench" probe --json
    grep '^{' "$OUT/logs/probe.txt" > "$OUT/probe.jsonl"
    # A finding is an outcome, whatever it is. Only a GPU can be probed.
    if [ "$DOTCOMPUTE_DEVICE" = cuda ]; then record dotcompute-bench probe "$OUT/logs/probe.txt"; fi
    cat "$OUT/probe.jsonl" | tee -a "$OUT/summary.txt"

    [ -n "${QUICK:-}" ] && quick=(--quick)
    left=$((LIMIT_ALL - SECONDS - GRACE))
    if [ "$left" -lt 20 ]; then
        out_of_time dotcompute-bench gpu "$OUT/logs/bench.txt"
        return
    fi
    # What is on the error stream belongs to the log only.
    # Some time is kept for the benches one by one, should one of them stop the run.
    limited $((left * 3 / 4)) "$OUT/logs/bench.txt" "$bench" gpu --json --within $((left / 2)) "${quick[@]}"
    record dotcompute-bench gpu "$OUT/logs/bench.txt"
    grep '^{' "$OUT/logs/bench.txt" > "$OUT/bench.jsonl"
    [ "$STATUS" = passed ] || benches_one_by_one "$bench" "${quick[@]}"
    say ""
    say "$(cat "$OUT/bench.jsonl")"
}

# After one has stopped the run: the others are worth having.
benches_one_by_one() {
    local bench="$1" name left
    shift
    limited 10 "$OUT/logs/benches.txt" "$bench" gpu --list
    while read -r name; do
        left=$((LIMIT_ALL - SECONDS - GRACE))
        [ "$left" -ge 10 ] || { out_of_time dotcompute-bench "$name" "$OUT/logs/bench.$name.txt"; continue; }
        limited $((left < 40 ? left : 40)) "$OUT/logs/bench.$name.txt" "$bench" gpu --json --rounds 1 --only "$name" "$@"
        record dotcompute-bench "$name" "$OUT/logs/bench.$name.txt"
        grep '^{' "$OUT/logs/bench.$name.txt" >> "$OUT/bench.jsonl"
    done < "$OUT/logs/benches.txt"
}

write_results() {
    {
        printf '{"device":"%s","seconds":%s,"failed":%s,"machine":%s,"tests":[\n' \
            "$DOTCOMPUTE_DEVICE" "$SECONDS" "$FAILED" "$(json < "$OUT/machine.txt")"
        sed '$!s/$/,/' "$RESULTS"
        printf '],"bench":[\n'
        sed '$!s/$/,/' "$OUT/bench.jsonl" 2>/dev/null
        printf '],"coexistence":[\n'
        sed '$!s/$/,/' "$OUT/coexistence.jsonl" 2>/dev/null
        printf '],"probe":[\n'
        sed '$!s/$/,/' "$OUT/probe.jsonl" 2>/dev/null
        printf ']}\n'
    } > "$OUT/results.json"
    rm -f "$RESULTS"
}

{
    about_the_machine
    find_compiler
} > "$OUT/machine.txt" 2>&1
# Once more, here: what it exports must reach the programs.
find_compiler > /dev/null 2>&1
cat "$OUT/machine.txt"
limited 30 "$OUT/doctor.json" bin/dotcompute doctor --json
record dotcompute doctor "$OUT/doctor.json"
run_tests
run_python
detect
run_benches
coexistence
write_results
say ""
say "$(grep -o '"status":"[a-z-]*"' "$OUT/results.json" | cut -d'"' -f4 | sort | uniq -c | tr -s ' \n' ' ' )in $SECONDS s; results in $OUT"
[ "$FAILED" -eq 0 ]
