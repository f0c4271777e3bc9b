#!/bin/sh
# Fetches Apache Kafka with all that its broker needs. Safe to repeat.
#
#   tests/kafka/setup.sh              prints the folder of the jars
#   ANABRANCH_KAFKA_CACHE=DIR …       another place than ~/.cache/anabranch/kafka
set -eu

here=$(cd "$(dirname "$0")" && pwd)
exec "$here/../maven.sh" "$here" "${ANABRANCH_KAFKA_CACHE:-$HOME/.cache/anabranch/kafka}" 'kafka_2.13-*.jar'
