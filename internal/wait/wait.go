// Package wait pauses a goroutine until some time has passed or its context ends. Only packages of hardneg
// import it.
package wait

import (
	"context"
	"time"
)

// For returns nil after d, or the error of the context if that ends first. With d ≤ 0 it returns at once.
func For(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
