package mining

// Chance gives the hash by which random sampling orders documents.
func Chance(query, positive, document string) uint64 {
	return mix(hashString(hashString(hashString(fnvOffset, query), positive), document))
}
