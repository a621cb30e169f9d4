package mining

// SameSlots says whether two lists are equal: same ids, hashes and policies, rank by rank, and cosines within
// Slack.
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

// SamePair says whether two pairs are equal: same positive, in the same version, with the same list and reason,
// and cosines within Slack.
func SamePair(a, b Pair) bool {
	return a.Positive == b.Positive && a.Hash == b.Hash && a.Reason == b.Reason &&
		near(a.Similarity, b.Similarity) && SameSlots(a.Slots, b.Slots)
}

// SameEntry says whether the bounds of two lists of intervals are equal within Slack.
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
