package wait_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"hardneg/internal/wait"
)

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, d := range []time.Duration{-time.Second, 0, time.Second, time.Hour} {
			start := time.Now()
			if err := wait.For(t.Context(), d); err != nil {
				t.Errorf("%v: %v", d, err)
			}
			if took := time.Since(start); took != max(0, d) {
				t.Errorf("waited %v, want %v", took, max(0, d))
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := wait.For(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v, want the context's error after 1 s", err, time.Since(start))
		}
	})
}
