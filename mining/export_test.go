package mining

// Chance is the order of random sampling.
func Chance(query, positive, document string) uint64 {
	return mix(hashString(hashString(hashString(fnvOffset, query), positive), document))
}
