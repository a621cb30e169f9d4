// Package batches groups the items of a scan into batches. Only packages of hardneg import it.
package batches

// Each runs scan, and calls use with the items that scan adds: n at a time, in their order, and the rest
// after scan has ended. An error of use comes back from add, and scan must return it. Each returns the error
// of scan, and then does not use the rest. use may keep its slice.
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
