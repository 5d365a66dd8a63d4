// signature-tool signs images and checks whether a policy accepts them, with the library that CRI-O, Podman and Skopeo use.
//
//	signature-tool sign KEY PASSPHRASE SOURCE DESTINATION [IDENTITY]
//	signature-tool accepts POLICY REGISTRIES.D REFERENCE
//
// References are those of the docker transport. Registries may use plain HTTP. It exits with 1 and the reason if the image is rejected.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/containers/image/v5/copy"
	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/docker/reference"
	"github.com/containers/image/v5/image"
	"github.com/containers/image/v5/signature"
	"github.com/containers/image/v5/types"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) >= 5 && args[0] == "sign":
		return sign(ctx, args[1:])
	case len(args) == 4 && args[0] == "accepts":
		return accepts(ctx, args[1], args[2], args[3])
	}
	return fmt.Errorf("usage: sign KEY PASSPHRASE SOURCE DESTINATION [IDENTITY], or accepts POLICY REGISTRIES.D REFERENCE")
}

func system(registriesDir string) *types.SystemContext {
	return &types.SystemContext{DockerInsecureSkipTLSVerify: types.OptionalBoolTrue, RegistriesDirPath: registriesDir}
}

func sign(ctx context.Context, args []string) error {
	source, err := docker.ParseReference("//" + args[2])
	if err != nil {
		return err
	}
	destination, err := docker.ParseReference("//" + args[3])
	if err != nil {
		return err
	}
	// The configuration stores signatures as attachments in the image's repository.
	registriesDir, err := os.MkdirTemp("", "registries")
	if err != nil {
		return err
	}
	defer os.RemoveAll(registriesDir)
	if err := os.WriteFile(registriesDir+"/all.yaml", []byte("default-docker:\n  use-sigstore-attachments: true\n"), 0o600); err != nil {
		return err
	}
	policy, err := signature.NewPolicyContext(&signature.Policy{Default: []signature.PolicyRequirement{signature.NewPRInsecureAcceptAnything()}})
	if err != nil {
		return err
	}
	options := copy.Options{
		ReportWriter:                     io.Discard,
		SourceCtx:                        system(registriesDir),
		DestinationCtx:                   system(registriesDir),
		SignBySigstorePrivateKeyFile:     args[0],
		SignSigstorePrivateKeyPassphrase: []byte(args[1]),
	}
	if len(args) > 4 {
		if options.SignIdentity, err = reference.ParseNormalizedNamed(args[4]); err != nil {
			return err
		}
	}
	_, err = copy.Image(ctx, policy, destination, source, &options)
	return err
}

func accepts(ctx context.Context, policyFile, registriesDir, name string) error {
	policy, err := signature.NewPolicyFromFile(policyFile)
	if err != nil {
		return err
	}
	policyContext, err := signature.NewPolicyContext(policy)
	if err != nil {
		return err
	}
	ref, err := docker.ParseReference("//" + name)
	if err != nil {
		return err
	}
	source, err := ref.NewImageSource(ctx, system(registriesDir))
	if err != nil {
		return err
	}
	defer source.Close()
	_, err = policyContext.IsRunningImageAllowed(ctx, image.UnparsedInstance(source, nil))
	return err
}
