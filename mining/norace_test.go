//go:build !race

package mining

const raceDetector = false
