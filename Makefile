# The five things that one does every day. docs/development.md says more about each test suite.
.PHONY: build test lint race ci

build:
	go build -o hardneg ./cmd/hardneg

test:
	go test ./...

lint:
	test -z "$$(gofmt -l $$(git ls-files '*.go'))"
	go vet ./...
	go tool staticcheck ./...
	go tool depguard ./...

race:
	go test -race -timeout 60m $$(go list ./... | grep -v -E '/internal/(config|dataset|records|e2e)(/|$$)')

ci:
	.ci/run
