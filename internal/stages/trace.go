package stages

import (
	"regexp"

	"hardneg/stream"
)

const headerTraceparent = "traceparent"

// maxTraceparent bounds the header of later versions of the format. Version 00 has 55 bytes.
const maxTraceparent = 128

// traceContext matches a traceparent of W3C Trace Context: version, trace, parent, flags, and additions of later versions.
var traceContext = regexp.MustCompile(`^([0-9a-f]{2})-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$`)

// Trace returns the traceparent header among headers, if there is a valid one. Anything else under that name, of whatever size,
// would go into every record that follows.
func Trace(headers []stream.Header) []stream.Header {
	for _, h := range headers {
		if h.Key != headerTraceparent || len(h.Value) > maxTraceparent {
			continue
		}
		found := traceContext.FindSubmatch(h.Value)
		if found == nil {
			continue
		}
		version, more := string(found[1]), found[2]
		if version == "ff" || version == "00" && more != nil {
			continue
		}
		return []stream.Header{h}
	}
	return nil
}
