# Sourced by the other launch scripts: prints commands, messages and help texts.

# Prints a command on one line, quoted so that a shell reads the same words back. Unlike printf %q, every bash prints the same.
quote_command() {
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

# Prints the comment at the top of a script, which is its help text.
print_help() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1"
}
