// Command hardneg keeps hard-negative triplets current: Kafka in, Qdrant as the index, Kafka out.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// If nobody reads standard output any more, a write to it gives an error. Without this, the signal
	// would end the service.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the program ends in order. A second one then ends it at once, as it ends any
	// program.
	context.AfterFunc(ctx, stop)
	os.Exit(execute(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}
