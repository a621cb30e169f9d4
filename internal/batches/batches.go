// Package batches groups the items of a scan. Only packages of hardneg import it.
package batches

// Each collects the items that scan adds, and calls use with n of them at a time, and with the rest at the end. It stops at the first
// error. use may keep its slice.
func Each[T any](n int, scan func(add func(T) error) error, use func([]T) error) error {
	batch := make([]T, 0, n)
	err := scan(func(item T) error {
		if batch = append(batch, item); len(batch) < n {
			return nil
		}
		err := use(batch)
		batch = make([]T, 0, n)
		return err
	})
	if err != nil || len(batch) == 0 {
		return err
	}
	return use(batch)
}
