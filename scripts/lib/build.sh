# Building what a script runs. Sourced, not run; `here` is the repository.
# Sets BINARIES, the directory with the binaries.

if ! command -v cargo >/dev/null; then
  echo "cargo is missing: install Rust first (https://rustup.rs)" >&2
  exit 2
fi
# TWINLUN_PROFILE=dev builds faster and runs slower: for work on the scripts themselves.
profile=${TWINLUN_PROFILE:-release}
BINARIES=${CARGO_TARGET_DIR:-$here/target}/$([ "$profile" = dev ] && echo debug || echo "$profile")

_cargo() {
  local log
  log=$(mktemp)
  if ! (cd "$here" && cargo build --profile "$profile" "$@") >"$log" 2>&1; then
    tail -30 "$log" >&2
    rm -f "$log"
    echo "the build failed: cargo build --profile $profile $*" >&2
    exit 1
  fi
  rm -f "$log"
}

# build_program [FEATURES]: the twinlun binary
build_program() {
  echo "building twinlun${1:+ with $1}" >&2
  _cargo --bin twinlun ${1:+--features "$1"}
}

# build_examples NAME...: the project's own hosts and tools
build_examples() {
  local words=() name
  for name in "$@"; do words+=(--example "$name"); done
  echo "building $*" >&2
  _cargo "${words[@]}"
}
