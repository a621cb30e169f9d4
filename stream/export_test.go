package stream

// What the tests and examples of package stream_test share with the tests of this package: the broker that
// TestMain chose (the embedded one, or HARDNEG_TEST_KAFKA), and the helpers that use it.
var (
	NewTestClient = testClient
	NewTestTopic  = testTopic
	Unique        = unique
	Eventually    = eventually
)

// BrokerAddr returns the host:port of that broker.
func BrokerAddr() string { return brokerAddr }
