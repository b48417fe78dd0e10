# Sourced by launch/tpu_vm.sh, slurm.sh and gpu.sh: one way to print a command, and one to refuse.

# Prints a command as one line that a shell reads back word by word; the same in every version of bash, unlike printf %q.
quoted() {
  local word line='' quote="'" escaped="'\\''"
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=@%+,-]*) word="'${word//$quote/$escaped}'" ;;
    esac
    line="$line${line:+ }$word"
  done
  printf '%s\n' "$line"
}

say() {
  printf '%s\n' "$*" >&2
}

fail() {
  say "error: $*"
  exit 2
}

# The comment at the head of a script is its help.
help_of() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1"
}
