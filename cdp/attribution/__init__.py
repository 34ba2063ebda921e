"""Attribution: exact credit of orders to touches; pure."""
