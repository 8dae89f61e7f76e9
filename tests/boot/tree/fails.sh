#!/bin/sh
echo 'boot-proof: this generation is a bad one'
exit 1
