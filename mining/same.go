package mining

// SameSlots reports whether two lists are equal: rank by rank the same ids, hashes and policies, and cosines
// that differ by Slack at most.
func SameSlots(a, b []Slot) bool {
	if len(a) != len(b) {
		return false
	}
	for i, x := range a {
		y := b[i]
		if x.Document != y.Document || x.Hash != y.Hash || x.Policy != y.Policy ||
			!near(x.QueryNegative, y.QueryNegative) || !near(x.PositiveNegative, y.PositiveNegative) {
			return false
		}
	}
	return true
}

// SamePair reports whether two pairs are equal: the same positive with the same hash, list and reason, and
// similarities that differ by Slack at most.
func SamePair(a, b Pair) bool {
	return a.Positive == b.Positive && a.Hash == b.Hash && a.Reason == b.Reason &&
		near(a.Similarity, b.Similarity) && SameSlots(a.Slots, b.Slots)
}

// SameEntry reports whether two lists have the same intervals, with bounds that differ by Slack at most.
func SameEntry(a, b []Interval) bool {
	if len(a) != len(b) {
		return false
	}
	for i, x := range a {
		if !near(x.Low, b[i].Low) || !near(x.High, b[i].High) {
			return false
		}
	}
	return true
}

func near(a, b float32) bool {
	d := float64(a) - float64(b)
	return -Slack <= d && d <= Slack
}
