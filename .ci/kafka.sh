#!/usr/bin/env bash
# A real Apache Kafka (KRaft, one node, plain text on loopback) for the tests, from Maven Central.
#
#   .ci/kafka.sh fetch               the jars, into $KAFKA_CACHE
#   .ci/kafka.sh start DIR PORT      a broker with its log in DIR, on 127.0.0.1:PORT and PORT+1; returns when it is warm
#   .ci/kafka.sh stop DIR
#
# KAFKA_VERSION: 4.2.1 by default; 4.3.0 loses transaction markers, see docs/exactly-once.md. KAFKA_CACHE: ~/.cache/hardneg-kafka. Needs mvn and a JRE of version 17 or newer.
# Then: HARDNEG_TEST_KAFKA=127.0.0.1:PORT go test ./stream/...
set -euo pipefail

version=${KAFKA_VERSION:-4.2.1}
cache=${KAFKA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hardneg-kafka}
jars=$cache/$version
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() { echo "kafka.sh: $*" >&2; exit 1; }

fetch() {
	[ -e "$jars/complete" ] && return
	command -v mvn >/dev/null || die "mvn is missing: install maven"
	command -v java >/dev/null || die "java is missing: install a JRE of version 17 or newer"
	mkdir -p "$jars"
	mvn -q -B -f "$here/kafka-pom.xml" dependency:copy-dependencies \
		-Dkafka.version="$version" -DoutputDirectory="$jars" -DincludeScope=runtime -Dstyle.color=never >&2 ||
		die "Maven could not fetch Kafka $version"
	touch "$jars/complete"
}

configure() { # DIR PORT
	cat >"$1/server.properties" <<P
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$(($2 + 1))
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$2,CONTROLLER://127.0.0.1:$(($2 + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$2
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=$1/log
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
# one node holds it all
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# small and quick
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
log.cleaner.dedupe.buffer.size=4194304
log.cleaner.backoff.ms=500
log.retention.check.interval.ms=1000
log.segment.bytes=67108864
offsets.topic.segment.bytes=10485760
transaction.state.log.segment.bytes=10485760
P
}

start() { # DIR PORT
	[ $# = 2 ] || die "usage: kafka.sh start DIR PORT"
	fetch
	mkdir -p "$1"
	local dir port=$2 pid
	dir=$(cd "$1" && pwd)
	if [ ! -e "$dir/server.properties" ]; then
		configure "$dir" "$port"
		java -Xmx256m -cp "$jars/*" kafka.tools.StorageTool format -t AAAAAAAAAAAAAAAAAAAAAQ \
			-c "$dir/server.properties" >"$dir/format.log" 2>&1 || { cat "$dir/format.log" >&2; die "format failed"; }
	fi
	: >"$dir/kafka.log" # readiness is read from it
	setsid nohup java -Xms128m -Xmx384m -XX:+UseSerialGC -cp "$jars/*" kafka.Kafka "$dir/server.properties" \
		>>"$dir/kafka.log" 2>&1 </dev/null &
	pid=$!
	echo "$pid" >"$dir/pid"
	for _ in $(seq 600); do
		kill -0 "$pid" 2>/dev/null || { tail -20 "$dir/kafka.log" >&2; die "Kafka ended"; }
		if grep -q 'Kafka Server started' "$dir/kafka.log"; then
			warm "$port"
			return
		fi
		sleep 0.1
	done
	tail -20 "$dir/kafka.log" >&2
	die "Kafka did not start within a minute"
}

# warm waits until the coordinators of groups and transactions answer: on a fresh cluster their topics are only
# made when they are first asked for.
warm() { # PORT
	local i
	for i in $(seq 30); do
		if (cd "$here/.." && HARDNEG_TEST_KAFKA=127.0.0.1:$1 go test -count=1 -run '^TestPassThrough$' ./stream) >/dev/null 2>&1; then
			return
		fi
		sleep 1
	done
	die "the coordinators on port $1 do not answer"
}

stop() { # DIR
	[ $# = 1 ] || die "usage: kafka.sh stop DIR"
	[ -e "$1/pid" ] || return 0
	local pid
	pid=$(cat "$1/pid")
	rm "$1/pid"
	kill "$pid" 2>/dev/null || return 0
	for _ in $(seq 300); do
		kill -0 "$pid" 2>/dev/null || return 0
		sleep 0.1
	done
	kill -9 "$pid" 2>/dev/null || true
}

case ${1:-} in
fetch | start | stop) "$@" ;;
*) die "usage: kafka.sh fetch | start DIR PORT | stop DIR" ;;
esac
