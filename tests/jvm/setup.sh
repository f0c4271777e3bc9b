#!/bin/sh
# Fetches the JDBC drivers of PostgreSQL and of Arrow Flight SQL, and compiles Clients.java. Safe to repeat.
#
#   tests/jvm/setup.sh                prints the class path
#   ANABRANCH_JVM_CACHE=DIR …         another place than ~/.cache/anabranch/jvm
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${ANABRANCH_JVM_CACHE:-$HOME/.cache/anabranch/jvm}
libs=$("$here/../maven.sh" "$here" "$cache" 'flight-sql-jdbc-driver-*.jar')
classes=$cache/classes
mkdir -p "$classes"
javac -d "$classes" "$here/Clients.java" >&2
echo "$classes:$libs/*"
