# syntax=docker/dockerfile:1
FROM golang:1.26-alpine AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# Without cgo the binary needs nothing of the system that it was built on.
RUN CGO_ENABLED=0 go build -trimpath -ldflags=-s -o /out/hardneg ./cmd/hardneg

# Alpine for its wget, which the health check uses.
FROM alpine:3.22
RUN addgroup -S -g 10001 hardneg && adduser -S -D -H -u 10001 -G hardneg hardneg
COPY --from=build /out/hardneg /usr/local/bin/hardneg
COPY LICENSE /usr/share/licenses/hardneg/LICENSE
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/hardneg"]
CMD ["run"]
