package config

//go:generate go run ./generate ../../docs/configuration.md
