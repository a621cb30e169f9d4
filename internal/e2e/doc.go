// Package e2e tests the built binary from outside: it starts `hardneg run`, produces records, waits until the view is
// quiet, and compares the triplets with a brute-force computation that shares no code with the program.
//
// The tests know the program by its contract alone: the command line, addresses.json, the Kafka topics and the Qdrant
// collections. Of the module they import only the readers of data sets.
//
// -long (or HARDNEG_LONG=1) runs full sizes, -kills N sets the number of random kills, -schedules N that of the crash
// schedules, and -seed (or HARDNEG_TEST_SEED) replays a run. -rolling measures the pauses of a rolling restart,
// -replay-speed a replay against live mining.
// With HARDNEG_TEST_KAFKA=host:port the same checks run against that Kafka as well, and the schedules there instead;
// HARDNEG_TEST_KAFKA_RESTART is a command that restarts it, and may come at any moment of a schedule.
// HARDNEG_TEST_RACE=1 builds the program with the race detector.
package e2e
