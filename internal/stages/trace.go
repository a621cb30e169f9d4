package stages

import (
	"regexp"

	"hardneg/stream"
)

const headerTraceparent = "traceparent"

// maxTraceparent bounds the header, in bytes. Version 00 of the format has 55; later versions may have more.
const maxTraceparent = 128

// traceContext matches a traceparent of W3C Trace Context: version, trace, parent, flags, and additions of
// later versions.
var traceContext = regexp.MustCompile(`^([0-9a-f]{2})-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$`)

// Trace returns the first valid traceparent header of headers; nil if there is none. Stages copy it into
// every record that follows, so an invalid or huge value must not get through.
func Trace(headers []stream.Header) []stream.Header {
	for _, h := range headers {
		if h.Key != headerTraceparent || len(h.Value) > maxTraceparent {
			continue
		}
		parts := traceContext.FindSubmatch(h.Value)
		if parts == nil {
			continue
		}
		version, addition := string(parts[1]), parts[2]
		if version == "ff" || version == "00" && addition != nil {
			continue
		}
		return []stream.Header{h}
	}
	return nil
}
