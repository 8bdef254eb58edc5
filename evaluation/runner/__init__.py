"""Runs a submission's image as the organisers do, locked down, and checks what comes back.

The organisers' command is `docker run --rm -v IN:/input/:ro -v OUT:/output IMAGE`. Here a container also gets no
network, the caller's user id, no capabilities, and limits of time, memory and processes. Nothing that the image prints
or writes is trusted: control characters do not reach the terminal, and links are not followed.

Source: the organisers' `docker_submission` repository.
"""
