#!/usr/bin/env bash
# Runs a command with a throw-away PostgreSQL server on this machine, then stops and removes it, whatever happens:
#   tests/cluster/with_postgres.sh psql -c 'select 1'
# The server has a free port of 127.0.0.1 and a password of its own; one that runs here already is left alone. The
# command finds
#   SWEEP_POSTGRES_URL    the URL of an empty database, for SQLAlchemy with psycopg 3
#   SWEEP_POSTGRES_START  a script that starts the server again after it was killed
#   SWEEP_POSTGRES_PID    a file whose first line is the server's process
# Where Debian's postgresql is not installed it installs it (apt-get, as root). PostgreSQL refuses to run as root: then
# the server is started as the user postgres, else as whoever runs this.
set -euo pipefail

find_bin() {
    local found
    found=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
    [ -n "$found" ] || found=$(dirname "$(command -v initdb 2>/dev/null || echo /missing/initdb)")
    [ -x "$found/initdb" ] && echo "$found"
}
if ! bin=$(find_bin); then
    [ "$(id -u)" = 0 ] || { echo "with_postgres: initdb is not there; as root: apt-get install postgresql" >&2; exit 1; }
    echo "with_postgres: installing Debian's postgresql (50 MB)" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null
    bin=$(find_bin)
fi
as=()
if [ "$(id -u)" = 0 ]; then
    id postgres >/dev/null 2>&1 || useradd --system --no-create-home postgres
    as=(setpriv --reuid=postgres --regid="$(id -g postgres)" --clear-groups)
fi

dir=$(mktemp -d /tmp/sweep-postgres.XXXXXX)
stop() {
    status=$?
    trap '' INT TERM
    "${as[@]}" "$bin/pg_ctl" -D "$dir/data" -m immediate -t 20 stop >/dev/null 2>&1 || true
    rm -rf "$dir"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
[ "${#as[@]}" = 0 ] || chown postgres "$dir"
cd "$dir"
read -r port password < <(python3 -c '
import secrets, socket
print(socket.create_server(("127.0.0.1", 0)).getsockname()[1], secrets.token_hex(16))')
echo "$password" >password # in a folder that nobody else may enter
"${as[@]}" "$bin/initdb" -D data -U sweep --auth-local=trust --auth-host=scram-sha-256 --pwfile=password \
    --encoding=UTF8 --no-locale --no-sync >initdb.log 2>&1 || { tail -n 5 initdb.log >&2; exit 1; }

# After a kill the last of the old server's processes may still be there: then it is tried again.
cat >start <<START
#!/usr/bin/env bash
cd "$dir"
for _ in {1..20}; do
    ${as[*]} "$bin/pg_ctl" -D data -s -w -l server.log -o "-k '$dir' -h 127.0.0.1 -p $port -N 50" start \\
        >/dev/null 2>&1 && exit 0
    sleep 0.5
done
tail -n 5 server.log >&2
exit 1
START
chmod +x start
./start
cd "$OLDPWD"
export PATH=$PATH:$bin PGHOST=127.0.0.1 PGPORT=$port PGUSER=sweep PGPASSWORD=$password PGDATABASE=postgres
export SWEEP_POSTGRES_URL="postgresql+psycopg://sweep:$password@127.0.0.1:$port/postgres"
export SWEEP_POSTGRES_START=$dir/start SWEEP_POSTGRES_PID=$dir/data/postmaster.pid
"$@"
