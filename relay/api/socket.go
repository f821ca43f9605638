package api

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// SocketName is the name of the daemon's socket in its data folder.
const SocketName = "rowhook.sock"

// SocketPath returns the path of the socket of the daemon that has the data
// folder.
func SocketPath(dataDir string) string { return filepath.Join(dataDir, SocketName) }

// maxSocketPath is what fits struct sockaddr_un everywhere (104 on macOS and
// the BSDs, 108 on Linux, each with a zero byte).
const maxSocketPath = 103

// withShortPath calls f with a path of the socket that fits a socket address.
// A longer one is reached through a symbolic link to its folder, which exists
// only during the call: the address is used by bind and connect, not after.
func withShortPath(path string, f func(short string) error) error {
	if len(path) <= maxSocketPath {
		return f(path)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "rowhook")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	link := filepath.Join(tmp, "d")
	if err := os.Symlink(dir, link); err != nil {
		return err
	}
	return f(filepath.Join(link, filepath.Base(path)))
}

// ListenSocket listens on the socket at path, which only this user can open.
// It replaces what is there: the caller holds the lock of the data folder, so
// an old socket is of a daemon that is gone. Closing the listener removes the
// socket.
func ListenSocket(ctx context.Context, path string) (net.Listener, error) {
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("listen on %s: there is something that is not a socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", path, err)
		}
	}
	var ln net.Listener
	err := withShortPath(path, func(short string) error {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "unix", short)
		if err != nil {
			return err
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		ln = l
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// Before this moment the data folder's own mode keeps others out.
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		os.Remove(path)
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &socketListener{ln, path}, nil
}

type socketListener struct {
	net.Listener
	path string
}

// Close implements net.Listener.
func (l *socketListener) Close() error {
	err := l.Listener.Close()
	if err == nil {
		os.Remove(l.path)
	}
	return err
}

func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	var conn net.Conn
	err := withShortPath(path, func(short string) error {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", short)
		conn = c
		return err
	})
	return conn, err
}
