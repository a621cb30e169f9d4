//go:build !unix

package service

import "os"

// tryLock does nothing: on this system nothing keeps a second process out.
func tryLock(*os.File) error { return nil }
