// Package e2e tests the built binary from outside. It starts `hardneg run`, produces records, waits until the
// view is quiet, and compares the triplets with a brute-force computation that shares no code with the
// program.
//
// The tests know the program only by its contract: the command line, addresses.json, the Kafka topics and the
// Qdrant collections. From the module they import only the readers of data sets.
//
// -long (or HARDNEG_LONG=1) runs full sizes. -kills N sets the number of random kills, -schedules N the
// number of crash schedules. -seed (or HARDNEG_TEST_SEED) replays a run. -rolling measures the pauses of a
// rolling restart, and -replay-speed compares a replay with live mining. With HARDNEG_TEST_KAFKA=host:port
// the same checks also run against that Kafka, and the schedules run only there. HARDNEG_TEST_KAFKA_RESTART
// is a command that restarts it; a schedule may call it at any moment. HARDNEG_TEST_RACE=1 builds the program
// with the race detector.
package e2e
