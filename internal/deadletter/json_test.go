package deadletter

import (
	"encoding/json"
	"testing"
	"time"

	"hardneg/stream"
)

// TestToJSON compares the JSON form of dead letters with texts written by hand.
func TestToJSON(t *testing.T) {
	for _, test := range []struct {
		deadLetter stream.DeadLetter
		replayed   bool
		want       string
	}{
		{
			stream.DeadLetter{
				Partition: 2, Offset: 17, Time: time.Date(2026, 1, 2, 3, 4, 5, 600_000_000, time.UTC), Stage: "indexer", Reason: `no "text"`,
				Record: stream.Record{
					Topic: "documents", Partition: 1, Offset: 5, Time: time.Date(2026, 1, 2, 4, 4, 5, 0, time.FixedZone("", 3600)),
					Key: []byte("d"), Value: []byte(`{"text":"ä"}`),
					Headers: []stream.Header{{Key: "a", Value: []byte{}}, {Key: "b", Value: nil}, {Key: "c", Value: []byte{0xff, 0}}},
				},
			}, true,
			`{"letter":"2/17","written":"2026-01-02T03:04:05.6Z","stage":"indexer","error":"no \"text\"","replayed":true,` +
				`"record":{"topic":"documents","partition":1,"offset":5,"timestamp":"2026-01-02T03:04:05Z","key":"d","value":"{\"text\":\"ä\"}",` +
				`"headers":[{"key":"a","value":""},{"key":"b","value":null},{"key":"c","value":{"base64":"/wA="}}]}}`,
		},
		{ // a tombstone without a key, from a time that RFC 3339 does not allow
			stream.DeadLetter{Record: stream.Record{Topic: "queries", Time: time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC)}}, false,
			`{"letter":"0/0","written":"0001-01-01T00:00:00Z","stage":"","error":"","replayed":false,` +
				`"record":{"topic":"queries","partition":0,"offset":0,"timestamp":"12345-01-01T00:00:00Z","key":null,"value":null}}`,
		},
	} {
		got, err := json.Marshal(ToJSON(test.deadLetter, test.replayed))
		if err != nil || string(got) != test.want {
			t.Errorf("%v\n%s\nwant\n%s", err, got, test.want)
		}
	}
}
